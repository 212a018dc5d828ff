"""How long a sound the DiT runs for a clip, and with how much of its video.

Training and generation both ask here, so that they agree. The DiT knows no mask: it attends to all
that it runs. So it never sees padding. What it runs is just as long as the clip, or, where the
preset has a canvas, as long as that: the clip's own latents, then encoded silence, which is what
Stable Audio Open itself was trained on (1,024 latents, silent after `seconds_total`). That silence
is given at every noise level, and what is predicted of it counts for nothing.

Shapes: B clips, C latent channels, L latent frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.backbone import Backbone
from model.presets.preset import Preset
from model.sampling.diffusion import diffuse
from model.sampling.samplers import clip_noise


@dataclass(frozen=True)
class Canvas:
    """Lengths of sounds of a preset; `seconds` of the canvas, None where there is none."""

    sample_rate: int
    downsampling_ratio: int
    token_rate: float
    seconds: float | None = None

    @classmethod
    def of(cls, preset: Preset) -> Self:
        """The preset's."""
        ratio, video = preset.downsampling_ratio, preset.video
        return cls(preset.sample_rate, ratio, video.token_rate, preset.window.canvas_seconds)

    @property
    def latent_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.downsampling_ratio

    def latents(self, seconds: float) -> int:
        """Latent frames of a sound, as its autoencoder gives."""
        return max(1, -(-round(seconds * self.sample_rate) // self.downsampling_ratio))

    def frames(self, latents: int) -> int:
        """Effective frames of the video that so many latent frames go with."""
        return frames_beside(latents, self.latent_rate, self.token_rate)

    def length(self, latents: int) -> int:
        """Latent frames that the DiT runs for a sound of so many."""
        return latents if self.seconds is None else max(latents, self.latents(self.seconds))


def frames_beside(latents: int, latent_rate: float, token_rate: float) -> int:
    """Effective frames of the video in the time of so many latent frames, the last one begun."""
    return math.ceil(round(latents / latent_rate * token_rate, 6))


class SilentTail:
    """The rest of the canvas behind sounds that are being sampled: silence at their noise level.

    Args:
        backbone: whose autoencoder says what silence is.
        seeds: of each of B sounds.
        count: latent frames; 0 for no tail.
    """

    def __init__(self, backbone: Backbone, seeds: Sequence[int], count: int) -> None:
        self.objective, self.count = backbone.objective, count
        if count:
            # other noise than the sound's own: torch's generator reads 32 bits of a seed
            draws = clip_noise([s + 2**31 for s in seeds], 2 * backbone.model.io_channels, count)
            draw, self.noise = draws.to(backbone.device).chunk(2, 1)
            mean, scale = (part.to(draw) for part in backbone.silence)
            self.clean = mean[:, None] + scale[:, None] * draw

    def behind(self, x: Tensor, t: Tensor) -> Tensor:
        """Latents [B, C, L] at times t [B] -> the same with the tail [B, C, L + count]."""
        if not self.count:
            return x
        tail = diffuse(self.clean, t.to(self.clean), self.noise, self.objective).noisy
        return torch.cat([x, tail.to(x.dtype)], dim=-1)
