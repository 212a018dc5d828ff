"""Scoring stages: facts about a clip by the curation models of paper section 3.2.

Scores never drop a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.presets.preset import Preset
from pipeline.media import Framing, read_audio, read_segments
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field

SCORER_RATE = 16000  # Hz, of both models' audio
CHUNK = 8  # clips whose decoded frames are held at once
Pixels = npt.NDArray[np.float32]
Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageBindSettings:
    """Windows that ImageBind looks at, see model.networks.imagebind.ImageBindViews."""

    video_clips: int = 5
    audio_clips: int = 3
    clip_seconds: float = 2.0
    frames: int = 2
    crops: int = 3
    mel_frames: int = 204


def watch_and_hear(
    path: Path, times: npt.NDArray[np.float64], own_side: int, side: int
) -> tuple[Pixels, Audio]:
    """The frames on screen at these times (s) as ImageBind's own preparation scales them, and the whole sound.

    Frames float32 [T, H, W, 3] of 0..255, scaled from `own_side`, the picture's short side, to
    `side`; one at a time, so that a large picture is not held `T` times. Sound mono at the scorers'
    rate.
    """
    order = np.argsort(times, kind="stable")
    frames: list[Pixels] = [np.empty(0, np.float32)] * len(times)
    for i, picture in zip(
        order, read_segments(path, times[order], Framing(own_side), 1), strict=True
    ):
        frames[i] = scaled(picture[0], side)
    return np.stack(frames), read_audio(path, SCORER_RATE)


def scaled(picture: npt.NDArray[np.uint8], side: int) -> Pixels:
    """A picture [H, W, 3] with `side` as its short side, the long one rounded down -> float32 [h, w, 3].

    Between the two nearest pixels each way, and with no mean over what falls together in a smaller
    picture: so does torch's `interpolate`, which upstream prepares with. A sharper scaler would
    give other scores than published ones.
    """
    height, width = picture.shape[:2]
    sizes = (
        (int(height / width * side), side) if width < height else (side, int(width / height * side))
    )
    found = picture.astype(np.float32)
    for axis, (old, new) in enumerate(zip((height, width), sizes, strict=True)):
        if old == new:
            continue
        at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0.0)
        low = at.astype(np.intp)
        weight = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        first = found.take(low, axis)
        found = first + (found.take(np.minimum(low + 1, old - 1), axis) - first) * weight
    return found


class ImageBindScore(Stage):
    """Cosine of ImageBind's audio and video embeddings: do sound and picture belong together?"""

    name = "imagebind"
    version = 2
    upstream = ("probe", "silence")
    schema = pa.schema(
        [
            field(
                "imagebind", pa.float32(), "cosine of ImageBind's audio and video embeddings, -1..1"
            )
        ]
    )
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.settings = ImageBindSettings(**preset.imagebind_views)

    @property
    def model_revision(self) -> str:
        """Content hash of ImageBind's weights."""
        from model.networks.imagebind import ImageBindScorer

        return ImageBindScorer.revision(self.preset)

    def setup(self) -> None:
        """Load ImageBind."""
        from model.networks.imagebind import ImageBindScorer, ImageBindViews

        views = ImageBindViews(**asdict(self.settings))
        self._scorer = ImageBindScorer.from_pretrained(self.preset, views)

    def _reading(self, clip: Clip) -> partial[tuple[Pixels, Audio]]:
        views = self._scorer.views
        times = views.frame_times(clip["duration"], clip["fps"] or 0.0)
        return partial(
            watch_and_hear,
            Path(clip["path"]),
            times,
            min(clip["width"], clip["height"]),
            views.size,
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One cosine a clip."""

        def run(ready: Sequence[tuple[Clip, Any]]) -> list[Passed]:
            return [
                Passed({"imagebind": score})
                for score in self._scorer.compare([found for _, found in ready])
            ]

        return read_then_run(
            clips, self._reading, run, CHUNK, lambda media: self._scorer.prepare(*media)
        )
