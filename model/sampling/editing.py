"""Sound from a known one: what stays of it through all of sampling, and where sampling starts.

Shapes: B clips, C latent channels, L latent frames.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.sampling.request import Retake
from model.sampling.samplers import Velocity


def velocity_to(clean: Tensor, x: Tensor, t: Tensor, objective: str) -> Tensor:
    """The velocity [B, C, L] of noisy latents x at times t [B] that leads to these clean ones.

    The forward process of model/sampling/diffusion.py, solved for the noise in x.
    """
    at = t[:, None, None]
    if objective == "rectified_flow":
        return (x - clean) / at
    alpha, sigma = (at * (math.pi / 2)).cos(), (at * (math.pi / 2)).sin()
    return alpha * (x - alpha * clean) / sigma - sigma * clean


def hold(velocity: Velocity, retakes: Sequence[Retake | None], objective: str) -> Velocity:
    """A velocity that leads back to what is known of each clip, outside of its stretches.

    So the model predicts the stretches beside the known sound at the same level of noise (masked
    diffusion), with any sampler.
    """
    if not any(retakes):
        return velocity

    def held(x: Tensor, t: Tensor) -> Tensor:
        found = velocity(x, t)
        for row, retake in enumerate(retakes):
            if retake is not None:
                clean = retake.latents.to(x)[None]
                known = velocity_to(clean, x[row : row + 1], t[row : row + 1].to(x), objective)
                free = free_of(retake, x.shape[-1]).to(x.device)
                found[row] = torch.where(free, found[row], known[0])
        return found

    return held


def free_of(retake: Retake, length: int) -> Tensor:
    """Which latent frames are made anew: bool [length]."""
    free = torch.zeros(length, dtype=torch.bool)
    for start, stop in retake.stretches:
        free[start:stop] = True
    return free
