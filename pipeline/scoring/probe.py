"""Probe: what each file says of itself. A clip goes on only with both a picture and a sound."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.media import MediaInfo, probe
from pipeline.stages.reading import read_each, reading
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from warehouse import field


@dataclass(frozen=True)
class ProbeSettings:
    """Which streams a clip must have."""

    needs_video: bool = True
    needs_audio: bool = True


class Probe(Stage):
    """Header and first picture of every file (`pipeline.media.probe`)."""

    name = "probe"
    version = 1
    upstream = ()
    batch_size = 16384
    schema = pa.schema(
        [
            field("container", pa.string(), "media format, by content"),
            field("video_codec", pa.string(), "codec of the picture"),
            field("audio_codec", pa.string(), "codec of the sound"),
            field("duration", pa.float64(), "declared duration of the picture, else the sound, s"),
            field("fps", pa.float64(), "mean frames per second"),
            field("width", pa.int32(), "width as stored, before rotation, pixels"),
            field("height", pa.int32(), "height as stored, before rotation, pixels"),
            field("rotation", pa.int32(), "degrees counter-clockwise that a player turns it"),
            field("sample_rate", pa.int32(), "samples per second and channel"),
            field("channels", pa.int32(), "channels of the sound"),
        ]
    )

    def __init__(self, settings: ProbeSettings | None = None) -> None:
        self.settings = settings or ProbeSettings()

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Failed if it cannot be read, rejected (with its facts) without picture or sound."""

        def judge(info: MediaInfo) -> Outcome:
            if self.settings.needs_video and info.video_codec is None:
                return Rejected("no video stream", asdict(info))
            if self.settings.needs_audio and info.audio_codec is None:
                return Rejected("no audio stream", asdict(info))
            return Passed(asdict(info))

        return read_each(clips, reading(probe), judge)
