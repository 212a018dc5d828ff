"""Sound longer than a bridge was trained for: overlapping windows, joined at every denoising step.

The sampler keeps one latent for the whole sound. At each step the model sees it window by window,
each no longer than the trained length and with the video of its own stretch of time, and the
velocities that overlapping windows give are cross-faded (MultiDiffusion, Bar-Tal et al. 2023,
section 3). All windows so agree on one noise and one sound, and there is no seam to hide
afterwards. Memory beyond the latent itself (and tokens) does not grow with the length.

Shapes: B clips, C latent channels, L latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.backbone import Backbone
from model.presets.settings import WindowSettings

# latent frames on either side that a decoded piece is computed with: more than the VAE looks at
DECODER_MARGIN = 32


@dataclass(frozen=True)
class Window:
    """A stretch of the sound, and of the video at the same time."""

    start: int  # latent frames, up to `stop`
    stop: int
    first: int  # effective frames of the video, up to `last`
    last: int
    offset: float  # seconds by which effective frame `first` begins after latent frame `start`

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.stop - self.start


def plan_windows(
    length: int, latent_rate: float, token_rate: float, settings: WindowSettings
) -> list[Window]:
    """The windows of a sound: one up to the trained length, else several of just that length.

    Neighbours overlap by `settings.overlap` seconds, the last two by more where the length asks for
    it.

    Args:
        length: latent frames of the sound.
        latent_rate: latent frames a second.
        token_rate: effective frames of the video a second.
        settings: the trained length and the overlap.

    """
    whole = max(1, round(settings.seconds * latent_rate))
    starts = [0]
    if length > whole:
        hop = (settings.seconds - settings.overlap) * latent_rate
        starts = [round(i * hop) for i in range(math.ceil((length - whole) / hop))]
        starts = [start for start in starts if start < length - whole] + [length - whole]
    return [_window(start, min(start + whole, length), latent_rate, token_rate) for start in starts]


def _window(start: int, stop: int, latent_rate: float, token_rate: float) -> Window:
    first = round(start / latent_rate * token_rate)
    count = math.ceil(round((stop - start) / latent_rate * token_rate, 6))
    return Window(start, stop, first, first + count, first / token_rate - start / latent_rate)


def cross_fades(windows: list[Window]) -> list[Tensor]:
    """The weights of each window's latent frames, which rise and fall over the overlaps.

    Those of one latent frame sum to 1.
    """
    weights: list[Tensor] = []
    total = torch.zeros(windows[-1].stop)
    for i, window in enumerate(windows):
        weight = torch.ones(window.length)
        if i > 0:
            overlap = windows[i - 1].stop - window.start
            weight[:overlap] *= (torch.arange(overlap) + 0.5) / overlap
        if i + 1 < len(windows):
            overlap = window.stop - windows[i + 1].start
            weight[window.length - overlap :] *= 1 - (torch.arange(overlap) + 0.5) / overlap
        weights.append(weight)
        total[window.start : window.stop] += weight
    return [weight / total[w.start : w.stop] for w, weight in zip(windows, weights, strict=True)]


def decode_in_pieces(backbone: Backbone, latents: Tensor, size: int) -> Iterator[Tensor]:
    """Latents [B, C, L] -> audio [B, channels, n] on the CPU, in pieces of `size` latent frames.

    Each piece is decoded with a margin wider than the decoder's receptive field, so that the pieces
    are those of the whole decoded at once, up to rounding.
    """
    ratio, length = backbone.preset.downsampling_ratio, latents.shape[-1]
    for start in range(0, length, size):
        stop = min(start + size, length)
        before = min(DECODER_MARGIN, start)
        audio = backbone.decode_audio(latents[..., start - before : stop + DECODER_MARGIN])
        yield audio[..., before * ratio : (before + stop - start) * ratio].float().cpu()
