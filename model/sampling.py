"""Sampling of latents and sound from the backbone with an inserted bridge.

The samplers are those of k-diffusion and stable-audio-tools. They are called directly rather than through
`generate_diffusion_cond`, because noise here is drawn for each clip by its own seed: a clip's sound then does not
depend on which clips share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.lean import import_k_diffusion
from model.presets import SampleSettings


def clip_noise(seeds: Sequence[int], channels: int, length: int) -> Tensor:
    """Gaussian noise [B, channels, length], each row drawn on the CPU by its own seed."""
    rows = [torch.randn(channels, length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def sample_velocity_model(
    model: Any,
    noise: Tensor,
    seeds: Sequence[int],
    settings: SampleSettings,
    on_step: Callable[[int, int], None] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Integrate a velocity model from noise [B, C, L] to latents [B, C, L].

    `on_step` is called with the steps done and their number; kwargs go to the model.
    """
    K = import_k_diffusion()
    from stable_audio_tools.inference import sampling

    extra: dict[str, Any] = {"cfg_scale": settings.cfg, **kwargs}

    def callback(info: dict[str, Any]) -> None:
        if on_step:
            on_step(int(info["i"]) + 1, settings.steps)

    if settings.sampler == "v-ddim":
        with patch.object(sampling, "trange", range):  # its own progress bar would break ours
            return cast("Tensor", sampling.sample(model, noise, settings.steps, 0.0, callback, **extra))
    sigmas = K.sampling.get_sigmas_polyexponential(
        settings.steps, settings.sigma_min, settings.sigma_max, device=str(noise.device)
    )
    start = noise * sigmas[0]
    tree = K.sampling.BrownianTreeNoiseSampler(start, sigmas[sigmas > 0].min(), sigmas.max(), seed=list(seeds))
    denoiser = K.external.VDenoiser(model)
    found = K.sampling.sample_dpmpp_3m_sde(
        denoiser, start, sigmas, extra_args=extra, noise_sampler=tree, callback=callback, disable=True
    )
    return cast("Tensor", found)
