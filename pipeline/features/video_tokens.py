"""Feature stages: what training reads instead of media (paper section 3.3).

Everything is stored as float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from model.presets.preset import Preset
from pipeline.media import Framing, read_frames
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field, to_bytes

CHUNK = 16  # clips whose decoded sound is held at once
VIDEO_CHUNK = 4  # clips whose frames are: 40 MB each at full size


def clip_seconds(preset: Preset, clip: Clip) -> float:
    """Seconds of the clip that are used: all of it, up to the preset's limit."""
    return min(float(clip["duration"]), preset.max_seconds)


def _half(tensor: Tensor) -> bytes:
    return to_bytes(tensor.cpu().numpy().astype(np.float16))


def _times(count: int, rate: float) -> bytes:
    """Middles of `count` tokens at `rate` a second, in seconds after the first picture -> float32 [count]."""
    return to_bytes(((np.arange(count) + 0.5) / rate).astype(np.float32))


@dataclass(frozen=True)
class VideoTokenSettings:
    """How frames are taken and pooled."""

    fps: int
    segment_frames: int
    short_side: int
    crop: int
    pooling: str
    max_seconds: float


def tokens_from_bytes(preset: Preset, data: bytes) -> Tensor:
    """Value of the column `video_tokens` -> float32 tokens [J, P, V], as the bridge takes them."""
    shape = (-1, preset.video.tokens_per_frame, preset.video.width)
    return torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))


class VideoTokens(Stage):
    """Pooled V-JEPA2 tokens, by timestamps."""

    name = "video_tokens"
    version = 1
    upstream = ("probe",)
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        video = preset.video
        self.settings = VideoTokenSettings(
            video.fps,
            video.segment_frames,
            video.short_side,
            video.crop,
            video.pooling,
            preset.max_seconds,
        )
        tokens, width = video.tokens_per_frame, video.width
        self.schema = pa.schema(
            [
                array_field(
                    "video_tokens",
                    "float16",
                    (-1, tokens, width),
                    "[effective frames, tokens a frame, width]",
                ),
                array_field(
                    "video_times",
                    "float32",
                    (-1,),
                    "[effective frames] middle of each, s after the first picture",
                ),
                field("n_video_tokens", pa.int32(), "effective frames (two input frames each)"),
                field("video_seconds", pa.float32(), "seconds of video that were encoded"),
            ]
        )

    @property
    def model_revision(self) -> str:
        """Content hash of V-JEPA2's weights."""
        from model.video_encoder import VideoEncoder

        return VideoEncoder.revision(self.preset)

    def setup(self) -> None:
        """Load V-JEPA2."""
        from model.device import default_device
        from model.video_encoder import VideoEncoder

        self._encoder: Any = VideoEncoder.from_pretrained(self.preset, default_device())

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Tokens of each clip."""

        def run(ready: Sequence[tuple[Clip, npt.NDArray[np.uint8]]]) -> list[Passed]:
            rows: list[Passed] = []
            for clip, frames in ready:
                tokens = self._encoder.encode(frames)
                columns = {
                    "video_tokens": _half(tokens),
                    "video_times": _times(len(tokens), self.preset.video.token_rate),
                }
                columns |= {
                    "n_video_tokens": len(tokens),
                    "video_seconds": clip_seconds(self.preset, clip),
                }
                rows.append(Passed(columns))
            return rows

        return read_then_run(clips, self._reading, run, VIDEO_CHUNK)

    def _reading(self, clip: Clip) -> partial[npt.NDArray[np.uint8]]:
        return _video_reading(self.preset, Path(clip["path"]), clip_seconds(self.preset, clip))


def read_video(preset: Preset, path: Path, seconds: float) -> npt.NDArray[np.uint8]:
    """Frames [T, crop, crop, 3] of a video as the preset's encoder expects them."""
    return _video_reading(preset, path, seconds)()


def _video_reading(preset: Preset, path: Path, seconds: float) -> partial[npt.NDArray[np.uint8]]:
    from model.video_encoder import frame_times

    video = preset.video
    return partial(
        read_frames, path, frame_times(seconds, video.fps), Framing(video.short_side, video.crop)
    )
