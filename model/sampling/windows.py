"""Sound longer than a bridge was trained for: overlapping windows, joined at every denoising step.

The sampler keeps one latent for the whole sound. At each step the model sees it window by window,
each no longer than the trained length and with the video of its own stretch of time, and the
velocities that overlapping windows give are cross-faded (MultiDiffusion, Bar-Tal et al. 2023,
section 3). All windows so agree on one noise and one sound, and there is no seam to hide
afterwards. Memory beyond the latent itself (and tokens) does not grow with the length.

Shapes: B clips, C latent channels, L latent frames.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from model.backbone import Backbone
from model.presets.settings import WindowSettings
from model.sampling.canvas import frames_beside

Starts = Sequence[tuple[float, bool]]
# latent frames on either side that a decoded piece is computed with: more than the VAE looks at
DECODER_MARGIN = 32
PROMPT_FADE = 0.5  # seconds over which one prompt gives way to the next, where there is no cut


@dataclass(frozen=True)
class Window:
    """A stretch of the sound, and of the video at the same time."""

    start: int  # latent frames, up to `stop`
    stop: int
    first: int  # effective frames of the video, up to `last`
    last: int
    offset: float  # seconds by which effective frame `first` begins after latent frame `start`
    stretch: int = 0  # which of the sound's stretches it is of

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


def plan_stretches(
    length: int, rates: tuple[float, float], settings: WindowSettings, starts: Starts
) -> list[Window]:
    """The windows of a sound of several stretches, each of which has its own.

    They end at a cut; where only the prompt changes, those of both sides share PROMPT_FADE.

    Args:
        length: latent frames of the sound.
        rates: latent frames, and effective frames of the video, a second.
        settings: the trained length and the overlap.
        starts: of each stretch but the first: seconds, and whether it is at a cut.
    """
    edges = [0, *(round(seconds * rates[0]) for seconds, _ in starts), length]
    shared = [0, *(0 if cut else round(PROMPT_FADE * rates[0] / 2) for _, cut in starts), 0]
    windows: list[Window] = []
    for i, (first, last) in enumerate(pairwise(edges)):
        begin, end = max(0, first - shared[i]), min(length, last + shared[i + 1])
        windows += [
            replace(_window(begin + part.start, begin + part.stop, *rates), stretch=i)
            for part in plan_windows(end - begin, *rates, settings)
        ]
    return windows


def _window(start: int, stop: int, latent_rate: float, token_rate: float) -> Window:
    first = round(start / latent_rate * token_rate)
    count = frames_beside(stop - start, latent_rate, token_rate)
    return Window(start, stop, first, first + count, first / token_rate - start / latent_rate)


def cross_fades(windows: list[Window]) -> list[Tensor]:
    """Weights of each window's latent frames, which rise and fall over overlaps and sum to 1."""
    weights: list[Tensor] = []
    total = torch.zeros(windows[-1].stop)
    for i, window in enumerate(windows):
        weight = torch.ones(window.length)
        if i > 0:
            overlap = min(windows[i - 1].stop - window.start, window.length)
            weight[:overlap] *= (torch.arange(overlap) + 0.5) / overlap
        if i + 1 < len(windows):
            overlap = min(window.stop - windows[i + 1].start, window.length)
            weight[window.length - overlap :] *= 1 - (torch.arange(overlap) + 0.5) / overlap
        weights.append(weight)
        total[window.start : window.stop] += weight
    return [weight / total[w.start : w.stop] for w, weight in zip(windows, weights, strict=True)]


def encode_in_pieces(backbone: Backbone, audio: Tensor, size: int) -> Tensor:
    """Audio [B, channels, S] -> means of its latents [B, C, L], in pieces of `size` latent frames.

    Each piece is encoded with a margin, as `decode_in_pieces` decodes it.
    """
    ratio = backbone.preset.downsampling_ratio
    pieces: list[Tensor] = []
    for start in range(0, -(-audio.shape[-1] // ratio), size):
        before = min(DECODER_MARGIN, start)
        part = audio[..., (start - before) * ratio : (start + size + DECODER_MARGIN) * ratio]
        pieces.append(backbone.codec.encode(part)[0][..., before : before + size])
    return torch.cat(pieces, dim=-1)


def decode_in_pieces(backbone: Backbone, latents: Tensor, size: int) -> Iterator[Tensor]:
    """Latents [B, C, L] -> audio [B, channels, n] on the CPU, in pieces of `size` latent frames.

    Each piece is decoded with a margin wider than the decoder's receptive field, so that the pieces
    are those of the whole decoded at once, up to rounding.
    """
    ratio, length = backbone.preset.downsampling_ratio, latents.shape[-1]
    for start in range(0, length, size):
        stop = min(start + size, length)
        before = min(DECODER_MARGIN, start)
        audio = backbone.codec.decode(latents[..., start - before : stop + DECODER_MARGIN])
        yield audio[..., before * ratio : (before + stop - start) * ratio].float().cpu()
