"""Sampling of latents, with the samplers of k-diffusion and stable-audio-tools.

They are called directly rather than through `generate_diffusion_cond`, because noise here is drawn
for each clip by its own seed: a clip's sound then does not depend on which clips share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.presets.settings import SampleSettings
from model.weights.lean_imports import import_k_diffusion

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents [B, C, L] at times [B] -> [B, C, L]


def clip_noise(seeds: Sequence[int], channels: int, length: int) -> Tensor:
    """Gaussian noise [B, channels, length], each row drawn on the CPU by its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(channels, length, generator=g) for g in generators])


def sample_velocity_model(
    model: Velocity,
    noise: Tensor,
    seeds: Sequence[int],
    settings: SampleSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrate a velocity model from noise to latents.

    Args:
        model: gives the velocity of latents.
        noise: [B, C, L].
        seeds: of each clip, for samplers that draw more noise on the way.
        settings: the sampler, its steps and noise levels.
        on_step: called with the steps done and their number.

    Returns:
        Latents [B, C, L].

    """

    def callback(info: dict[str, Any]) -> None:
        if on_step:
            on_step(int(info["i"]) + 1, settings.steps)

    if settings.sampler in ("euler", "pingpong"):
        return _sample_flow(model, noise, seeds, settings, callback)
    K = import_k_diffusion()
    if settings.sampler == "v-ddim":
        from stable_audio_tools.inference import sampling

        with patch.object(sampling, "trange", range):  # its own progress bar would break ours
            return cast("Tensor", sampling.sample(model, noise, settings.steps, 0.0, callback))
    sigmas = K.sampling.get_sigmas_polyexponential(
        settings.steps, settings.sigma_min, settings.sigma_max, device=str(noise.device)
    )
    start = noise * sigmas[0]
    tree = K.sampling.BrownianTreeNoiseSampler(
        start, sigmas[sigmas > 0].min(), sigmas.max(), seed=list(seeds)
    )
    latents = K.sampling.sample_dpmpp_3m_sde(
        K.external.VDenoiser(model),
        start,
        sigmas,
        noise_sampler=tree,
        callback=callback,
        disable=True,
    )
    return cast("Tensor", latents)


@torch.no_grad()
def _sample_flow(
    model: Velocity,
    noise: Tensor,
    seeds: Sequence[int],
    settings: SampleSettings,
    callback: Callable[[dict[str, Any]], None],
) -> Tensor:
    """Rectified flow, t from 1 to 0 at even steps of the log signal-to-noise ratio.

    The times are those of stable-audio-tools' sample_rf. "euler" follows the flow; "pingpong" (for
    distilled backbones) goes to the clean latents each step and back by fresh noise, which is each
    clip's own here, as its first is.
    """
    times = torch.linspace(-6.0, 2.0, settings.steps + 1).neg().sigmoid()
    times[0], times[-1] = 1.0, 0.0
    # Other noise than the clip's first: torch's generator reads 32 bits, and seeds are below 2**31.
    generators = [torch.Generator().manual_seed(seed + 2**31) for seed in seeds]
    x = noise
    for i, (t, after) in enumerate(pairwise(times.tolist())):
        velocity = model(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
        if settings.sampler == "euler":
            x = x + (after - t) * velocity
        else:
            fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)
            x = (1 - after) * (x - t * velocity) + after * fresh
        callback({"i": i})
    return x
