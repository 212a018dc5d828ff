"""Sampling of latents and sound from the backbone with an inserted bridge.

The samplers are those of k-diffusion and stable-audio-tools. They are called directly rather than
through `generate_diffusion_cond`, because noise here is drawn for each clip by its own seed: a
clip's sound then does not depend on which clips share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.presets.settings import SampleSettings
from model.weights.lean_imports import import_k_diffusion


def clip_noise(seeds: Sequence[int], channels: int, length: int) -> Tensor:
    """Gaussian noise [B, channels, length], each row drawn on the CPU by its own seed."""
    rows = [
        torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
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

    if settings.sampler in ("euler", "pingpong"):
        return _sample_flow(model, noise, seeds, settings, callback, extra)
    if settings.sampler == "v-ddim":
        with patch.object(sampling, "trange", range):  # its own progress bar would break ours
            return cast(
                "Tensor", sampling.sample(model, noise, settings.steps, 0.0, callback, **extra)
            )
    sigmas = K.sampling.get_sigmas_polyexponential(
        settings.steps, settings.sigma_min, settings.sigma_max, device=str(noise.device)
    )
    start = noise * sigmas[0]
    tree = K.sampling.BrownianTreeNoiseSampler(
        start, sigmas[sigmas > 0].min(), sigmas.max(), seed=list(seeds)
    )
    denoiser = K.external.VDenoiser(model)
    found = K.sampling.sample_dpmpp_3m_sde(
        denoiser,
        start,
        sigmas,
        extra_args=extra,
        noise_sampler=tree,
        callback=callback,
        disable=True,
    )
    return cast("Tensor", found)


def _sample_flow(
    model: Any,
    noise: Tensor,
    seeds: Sequence[int],
    settings: SampleSettings,
    callback: Callable[[dict[str, Any]], None],
    extra: dict[str, Any],
) -> Tensor:
    """Rectified flow, t from 1 to 0 at even steps of the log signal-to-noise ratio, as stable-audio-tools' sample_rf.

    "euler" follows the flow; "pingpong" (for distilled backbones) goes to the clean latents each
    step and back by fresh noise, which is each clip's own here, as its first is.
    """
    times = torch.linspace(-6.0, 2.0, settings.steps + 1).neg().sigmoid()
    times[0], times[-1] = 1.0, 0.0
    generators = [torch.Generator().manual_seed(seed + 2**32) for seed in seeds]
    x = noise
    with torch.no_grad():
        for i, (t, after) in enumerate(zip(times.tolist(), times.tolist()[1:], strict=False)):
            velocity = model(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), **extra)
            if settings.sampler == "euler":
                x = x + (after - t) * velocity
            else:
                fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(
                    x
                )
                x = (1 - after) * (x - t * velocity) + after * fresh
            callback({"i": i})
    return x
