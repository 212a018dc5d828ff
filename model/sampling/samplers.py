"""Sampling of latents, with the samplers of k-diffusion and stable-audio-tools.

They are called directly rather than through `generate_diffusion_cond`, because noise here is drawn
for each clip by its own seed: a clip's sound then does not depend on which clips share its batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor

from model.presets.settings import SampleSettings
from model.sampling.diffusion import diffuse
from model.weights.lean_imports import import_k_diffusion

Callback = Callable[[dict[str, Any]], None]  # told of each step, as k-diffusion does
Velocity = Callable[[Tensor, Tensor], Tensor]  # latents [B, C, L] at times [B] -> [B, C, L]


@dataclass(frozen=True)
class Start:
    """Where sampling starts: at noise, or at clean latents that have only a part of it."""

    noise: Tensor  # [B, C, L]
    seeds: Sequence[int]  # of each clip, for samplers that draw more noise on the way
    clean: Tensor | None = None  # [B, C, L], noised as at `strength`; none: noise alone
    strength: float = 1.0  # a time t in 0..1


def clip_noise(seeds: Sequence[int], channels: int, length: int) -> Tensor:
    """Gaussian noise [B, channels, length], each row drawn on the CPU by its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(channels, length, generator=g) for g in generators])


def sample_velocity_model(
    model: Velocity,
    start: Start,
    settings: SampleSettings,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrate a velocity model from noise to latents.

    Args:
        model: gives the velocity of latents.
        start: the noise, or latents to start from with only a part of it.
        settings: the sampler, its steps and noise levels.
        on_step: called with the steps done and their number.

    Returns:
        Latents [B, C, L].
    """

    def callback(info: dict[str, Any]) -> None:
        if on_step:
            on_step(int(info["i"]) + 1, settings.steps)

    x, first = start.noise, start.strength
    if settings.sampler == "dpmpp-3m-sde":
        sigmas = _noise_levels(settings, first, x.device)
        x = x * sigmas[0] + (0 if start.clean is None else start.clean)
        return _sample_sde(model, x, sigmas, start.seeds, callback)
    if start.clean is not None:
        objective = "v" if settings.sampler == "v-ddim" else "rectified_flow"
        times = torch.full((len(x),), first, device=x.device)
        x = diffuse(start.clean, times, x, objective).noisy
    if settings.sampler != "v-ddim":
        again = start.seeds if settings.sampler == "pingpong" else ()
        return _sample_flow(model, x, _flow_times(settings.steps, first), again, callback)
    import_k_diffusion()
    from stable_audio_tools.inference import sampling

    with patch.object(sampling, "trange", range):  # its own progress bar would break ours
        made = sampling.sample(model, x, settings.steps, 0.0, callback, sigma_max=first)
        return cast("Tensor", made)


def _noise_levels(settings: SampleSettings, first: float, device: torch.device) -> Tensor:
    """Levels of noise sigma [steps + 1], which is tan(t pi / 2), from that of time `first`."""
    most = settings.sigma_max
    if first < 1:
        most = max(min(most, math.tan(first * math.pi / 2)), 2 * settings.sigma_min)
    return import_k_diffusion().sampling.get_sigmas_polyexponential(
        settings.steps, settings.sigma_min, most, device=str(device)
    )


def _sample_sde(
    model: Velocity, x: Tensor, sigmas: Tensor, seeds: Sequence[int], callback: Callback
) -> Tensor:
    """DPM-Solver++(3M) SDE over levels of noise."""
    K = import_k_diffusion()
    tree = K.sampling.BrownianTreeNoiseSampler(
        x, sigmas[sigmas > 0].min(), sigmas.max(), seed=list(seeds)
    )
    latents = K.sampling.sample_dpmpp_3m_sde(
        K.external.VDenoiser(model), x, sigmas, noise_sampler=tree, callback=callback, disable=True
    )
    return cast("Tensor", latents)


def _flow_times(steps: int, first: float) -> list[float]:
    """From `first` to 0 at even steps of the log signal-to-noise ratio, as sample_rf has them."""
    lowest = -6.0 if first == 1 else math.log((1 - first) / first)
    times = torch.linspace(lowest, max(2.0, lowest), steps + 1).neg().sigmoid()
    times[0], times[-1] = first, 0.0
    return times.tolist()


@torch.no_grad()
def _sample_flow(
    model: Velocity, x: Tensor, times: Sequence[float], seeds: Sequence[int], callback: Callback
) -> Tensor:
    """Rectified flow.

    Without seeds it follows the flow ("euler"). With them ("pingpong", for distilled backbones) it
    goes to the clean latents each step and back by fresh noise, which is each clip's own here.
    """
    # Other noise than the clip's first: torch's generator reads 32 bits, and seeds are below 2**31.
    generators = [torch.Generator().manual_seed(seed + 2**31) for seed in seeds]
    for i, (t, after) in enumerate(pairwise(times)):
        velocity = model(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
        if not seeds:
            x = x + (after - t) * velocity
        else:
            fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)
            x = (1 - after) * (x - t * velocity) + after * fresh
        callback({"i": i})
    return x
