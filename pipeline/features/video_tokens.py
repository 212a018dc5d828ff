"""Video tokens: what the bridge reads of a clip's picture (paper section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from model.presets.preset import Preset
from model.presets.settings import revision_in
from model.weights.files import weights_bytes
from pipeline.features.columns import clip_seconds, half_bytes, middle_times
from pipeline.media import Framing, read_frames
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field

CHUNK = 4  # clips whose frames are held at once: 40 MB each at full size


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
    scope = "kept"
    version = 2
    upstream = ("probe",)
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset, self.precision, video = preset, preset.precision.video, preset.video
        frames, size = (video.fps, video.segment_frames), (video.short_side, video.crop)
        self.settings = VideoTokenSettings(*frames, *size, video.pooling, preset.max_seconds)
        shape = (-1, video.tokens_per_frame, video.width)
        tokens = "[effective frames, tokens a frame, width]"
        times = "[effective frames] middle of each, s after the first picture"
        self.schema = pa.schema(
            [
                array_field("video_tokens", "float16", shape, tokens),
                array_field("video_times", "float32", (-1,), times),
                field("n_video_tokens", pa.int32(), "effective frames (two input frames each)"),
                field("video_seconds", pa.float32(), "seconds of video that were encoded"),
            ]
        )

    @property
    def model_revision(self) -> str:
        """Content hash of V-JEPA2's weights, and the precision where that is not float32."""
        from model.video_encoder import VideoEncoder

        return revision_in(VideoEncoder.revision(self.preset), self.precision)

    @property
    def weights(self) -> int:
        """Those of the video encoder."""
        return weights_bytes(self.preset.model("video"))

    def setup(self) -> None:
        """Load V-JEPA2."""
        from model.video_encoder import VideoEncoder
        from model.weights.device import choose_device

        self._encoder = VideoEncoder.from_pretrained(self.preset, choose_device())

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Tokens of each clip."""
        return read_then_run(clips, self._reading, self._encode, CHUNK)

    def _encode(self, ready: Sequence[tuple[Clip, npt.NDArray[np.uint8]]]) -> list[Passed]:
        rows: list[Passed] = []
        for clip, frames in ready:
            tokens = self._encoder.encode(frames)
            columns = {
                "video_tokens": half_bytes(tokens),
                "video_times": middle_times(len(tokens), self.preset.video.token_rate),
                "n_video_tokens": len(tokens),
                "video_seconds": clip_seconds(self.preset, clip),
            }
            rows.append(Passed(columns))
        return rows

    def _reading(self, clip: Clip) -> partial[npt.NDArray[np.uint8]]:
        from model.video_encoder import frame_times

        video = self.preset.video
        times = frame_times(clip_seconds(self.preset, clip), video.fps)
        framing = Framing(video.short_side, video.crop)
        return partial(read_frames, Path(clip["path"]), times, framing)
