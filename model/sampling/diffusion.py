"""The forward process that the backbone was trained with.

Shapes: B clips, C latent channels, L latent frames.
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NoisyLatents:
    """Latents on their way from clean to noise, and what the DiT has to predict of them."""

    t: Tensor  # [B] times in 0..1
    noisy: Tensor  # [B, C, L]
    target: Tensor  # [B, C, L]


def diffuse(clean: Tensor, t: Tensor, noise: Tensor, objective: str = "v") -> NoisyLatents:
    """Clean latents [B, C, L] with noise [B, C, L] added as at times t [B].

    `objective` is the backbone's own: "v" (alpha noise - sigma clean) or "rectified_flow" (noise -
    clean).
    """
    at = t[:, None, None]
    if objective == "rectified_flow":
        return NoisyLatents(t, (1 - at) * clean + at * noise, noise - clean)
    alpha, sigma = (at * (math.pi / 2)).cos(), (at * (math.pi / 2)).sin()
    return NoisyLatents(t, alpha * clean + sigma * noise, alpha * noise - sigma * clean)
