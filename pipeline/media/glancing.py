"""A glance at a picture: small grey frames, and what they tell without any model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.types import Frames
from pipeline.media.picture import Framing, read_frames, read_segments

SIDE = 32  # pixels of the short side
_BLACK = 16.0  # of 255: brightest tenth of a black frame
_STILL = 1.0  # of 255: mean change between glances of a picture that stands still
_CUT = 24.0  # of 255: mean change at a cut, and
_STANDS_OUT = 2.5  # times the changes around it
_HASH_SIDE = 8  # a hash of 8 x 8 low frequencies


@dataclass(frozen=True)
class Glance:
    """Shares of time, cuts in all, and a hash that differs in few bits for the same picture."""

    static_share: float
    black_share: float
    cuts: int
    phash: int


def glance(path: Path, seconds: float, per_second: float = 4.0) -> Glance:
    """Look at the picture `per_second` times a second; raises MediaError as `read_frames` does."""
    times = np.arange(max(2, int(seconds * per_second))) / per_second
    return judge(read_frames(path, times, Framing(SIDE)))


def judge(frames: Frames) -> Glance:
    """Facts of frames uint8 [T, H, W, 3], T of at least 2, taken at even times."""
    grey = frames.mean(-1, dtype=np.float32)  # [T, H, W]
    change = np.abs(np.diff(grey, axis=0)).mean((1, 2))  # [T - 1]
    return Glance(
        static_share=float((change < _STILL).mean()),
        black_share=float((np.quantile(grey, 0.9, axis=(1, 2)) < _BLACK).mean()),
        cuts=int(_at_cut(change).sum()),
        phash=perceptual_hash(grey[len(grey) // 2]),
    )


def cut_times(path: Path, seconds: float, per_second: float = 25.0) -> list[float]:
    """Seconds at which the picture is cut, to one look; raises MediaError as `read_frames` does."""
    times = np.arange(max(2, int(seconds * per_second))) / per_second
    changes: list[NDArray[np.float32]] = []
    before: NDArray[np.float32] | None = None
    for frames in read_segments(path, times, Framing(SIDE), 256):
        grey = frames.mean(-1, dtype=np.float32)
        joined = grey if before is None else np.concatenate([before, grey])
        changes.append(np.abs(np.diff(joined, axis=0)).mean((1, 2)))
        before = grey[-1:]
    places = np.flatnonzero(_at_cut(np.concatenate(changes))) + 1
    return [float(times[place]) for place in places]


def _at_cut(change: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Changes that are large, and larger than those beside them: motion is large for longer."""
    around = np.pad(change, 1)
    beside = np.maximum(around[:-2], around[2:])
    return (change > _CUT) & (change > _STANDS_OUT * beside)


def perceptual_hash(grey: NDArray[np.float32]) -> int:
    """64 bits of a picture [H, W]: which of its lowest frequencies lie over their median."""
    rows, columns = (_cosines(n) for n in grey.shape)
    low = (rows @ (grey - grey.mean()) @ columns.T).ravel()  # [64]
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def _cosines(n: int) -> NDArray[np.float32]:
    """The first rows of a cosine transform of n samples -> [8, n]."""
    k, i = np.arange(_HASH_SIDE)[:, None], np.arange(n)[None]
    return np.cos(np.pi * (i + 0.5) * k / n).astype(np.float32)
