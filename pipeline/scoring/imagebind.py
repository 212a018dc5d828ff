"""ImageBind: do sound and picture belong together (paper section 3.2)?"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.presets.preset import Preset
from model.types import Audio, Frames, Times
from pipeline.media import Framing, read_audio, read_segments
from pipeline.scoring.network import NetworkScore
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed

RATE = 16000  # Hz, of the sound that it takes
CHUNK = 8  # clips whose decoded frames are held at once
Pixels = npt.NDArray[np.float32]


def read_clip(path: Path, times: Times, own_side: int, side: int) -> tuple[Pixels, Audio]:
    """Pictures as ImageBind's own preparation scales them, and the whole sound.

    Pictures are scaled one by one, so that a large one is not held as often as there are times.

    Args:
        path: A video with sound.
        times: When the pictures are on screen, s [T].
        own_side: The short side of the video's picture, pixels.
        side: The short side of the pictures that are wanted, pixels.

    Returns:
        Pictures [T, H, W, 3] of 0..255, and mono samples [S] at 16 kHz.
    """
    order = np.argsort(times, kind="stable")
    frames: list[Pixels] = [np.empty(0, np.float32)] * len(times)
    segments = read_segments(path, times[order], Framing(own_side), 1)
    for i, picture in zip(order, segments, strict=True):
        frames[i] = scaled(picture[0], side)
    return np.stack(frames), read_audio(path, RATE)


def scaled(picture: Frames, side: int) -> Pixels:
    """A picture [H, W, 3] with `side` as its short side, the long one rounded down.

    Between the two nearest pixels each way, and with no mean over what falls together in a smaller
    picture: so does torch's `interpolate`, which upstream prepares with. A sharper scaler would
    give other scores than published ones.
    """
    height, width = picture.shape[:2]
    long = int(max(height, width) / min(height, width) * side)
    sizes = (long, side) if width < height else (side, long)
    pixels = picture.astype(np.float32)
    for axis, (old, new) in enumerate(zip((height, width), sizes, strict=True)):
        if old == new:
            continue
        at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0.0)
        low = at.astype(np.intp)
        weight = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        first, second = pixels.take(low, axis), pixels.take(np.minimum(low + 1, old - 1), axis)
        pixels = first + (second - first) * weight
    return pixels


class ImageBindScore(NetworkScore):
    """Cosine of ImageBind's embeddings of a clip's sound and picture."""

    name = "imagebind"
    network = "imagebind"
    version = 2
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        self.settings = preset.imagebind_views

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One cosine a clip."""

        def prepare(media: tuple[Pixels, Audio]) -> tuple[Any, Any]:
            return self._network.prepare_frames(media[0]), self._network.prepare(media[1])

        def run(ready: Sequence[tuple[Clip, Any]]) -> list[Passed]:
            cosines = self._network.compare([prepared for _, prepared in ready])
            return [Passed({"imagebind": cosine}) for cosine in cosines]

        return read_then_run(clips, self._reading, run, CHUNK, prepare)

    def _reading(self, clip: Clip) -> partial[tuple[Pixels, Audio]]:
        times = self._network.window_times(clip["duration"], clip["fps"] or 0.0)
        side = min(clip["width"], clip["height"])
        return partial(read_clip, Path(clip["path"]), times, side, self._network.size)
