"""Stages of evaluation: every sound is checked and embedded by each network, every video by some.

Those of systems run over the clips of a warehouse of their own (HOME/systems), so that these files
never mix with a corpus; an ablation runs those of true sound over the corpus itself. What was
embedded under the same fingerprint is never embedded again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from model.presets.networks import NETWORKS
from model.presets.preset import Preset
from model.presets.settings import revision_in
from model.weights.files import weights_bytes
from pipeline.media import Framing, Scaling, read_frames
from pipeline.media.mono import Channel, check_sound, read_sound
from pipeline.stages.reading import read_each, read_then_run, reading
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field

CHUNK = 8  # clips whose media is held at once


@dataclass(frozen=True)
class SoundSettings:
    """Which part of a sound is read (its first seconds, of which channel), and the network's."""

    seconds: float
    channel: Channel = "mean"
    network: Mapping[str, object] | None = None


@dataclass(frozen=True)
class VideoSettings:
    """Which part of a video is read (its first seconds), how it is scaled, and the network's."""

    seconds: float
    scaling: Scaling = "bicubic"  # the benchmark's
    network: Mapping[str, object] | None = None


class SoundCheck(Stage):
    """Is there a sound, how long is it, is it silent or clipped, and when are its onsets?"""

    name = "sound"
    scope = "asked"
    schema = pa.schema(
        [
            field("sound_seconds", pa.float64(), "length of the sound, s"),
            field("sound_rate", pa.int32(), "its sample rate, Hz"),
            field("sound_channels", pa.int32(), "its channels"),
            field("sound_peak_db", pa.float32(), "its largest sample, dBFS"),
            field("sound_clipped_share", pa.float32(), "share of its samples at full scale"),
            field("sound_onsets", pa.string(), "onset times found in it, JSON list of seconds"),
        ]
    )
    batch_size = 64

    def __init__(self, seconds: float) -> None:
        self.settings = SoundSettings(seconds)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Facts of each sound; one that cannot be decoded, or holds NaN or nothing, fails."""

        def outcome(facts: dict[str, object]) -> Outcome:
            return Passed(facts | {"sound_onsets": json.dumps(facts["sound_onsets"])})

        return read_each(clips, reading(check_sound, self.settings.seconds), outcome)


class Embed(Stage):
    """What a network computes of each sound (`hear_...`), or of each video's picture (`watch_...`).

    After the end of a shorter video its last picture stays.
    """

    scope = "asked"
    batch_size = 64

    def __init__(self, kind: Any, preset: Preset, settings: SoundSettings | VideoSettings) -> None:
        hears = isinstance(settings, SoundSettings)
        self.kind, self.preset, self.settings = kind, preset, settings
        self.precision = preset.precision.networks
        self.name = f"{'hear' if hears else 'watch'}_{kind.name}"
        self.upstream = ("sound",) if hears else ()
        logits = "logits, empty where the network has no classes"
        self.schema = pa.schema(
            [
                array_field(f"{self.name}_features", "<f4", (-1,), "features, row by row"),
                field(f"{self.name}_pieces", pa.int32(), "rows of the features"),
                array_field(f"{self.name}_logits", "<f4", (-1,), logits),
            ]
        )

    @property
    def model_revision(self) -> str:
        """Content hash of the network's weights, and the precision where that is not float32."""
        return revision_in(self.kind.revision(self.preset), self.precision)

    @property
    def weights(self) -> int:
        """Those of the network."""
        return weights_bytes(self.preset.model(self.kind.name))

    def setup(self) -> None:
        """Load the network."""
        self._network: Any = self.kind.from_pretrained(self.preset)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Features and logits of each file; one that cannot be read fails."""
        network, settings = self._network, self.settings
        if isinstance(settings, SoundSettings):
            embed, read = network.hear, read_sound
            how: object = (network.sample_rate, settings.seconds, settings.channel)
        else:
            embed, read = network.watch, read_frames
            crop = network.size if network.crop else None
            framing = Framing(network.size, crop, settings.scaling)
            how = (network.times(settings.seconds), framing)

        def run(ready: Sequence[tuple[Clip, Any]]) -> list[Passed]:
            return [self._row(*clip) for clip in embed([media for _, media in ready])]

        return read_then_run(clips, reading(read, *how), run, CHUNK)

    def _row(self, features: Any, logits: Any) -> Passed:
        arrays = (features, np.zeros(0) if logits is None else logits)
        packed = [np.asarray(array, "<f4").tobytes() for array in arrays]
        values = (packed[0], len(features), packed[1])
        return Passed(dict(zip(self.schema.names, values, strict=True)))


def sound_stages(preset: Preset, channel: Channel = "mean") -> list[Stage]:
    """Stages over sounds; `channel` is what ImageBind hears of a stereo sound."""
    seconds = preset.evaluation_seconds
    stages: list[Stage] = [SoundCheck(seconds)]
    for kind in _networks(preset, "sound"):
        part = channel if kind.name == "imagebind" else "mean"
        stages.append(Embed(kind, preset, SoundSettings(seconds, part, kind.settings(preset))))
    return stages


def video_stages(preset: Preset, scaling: Scaling = "bicubic") -> list[Stage]:
    """Stages over videos; `scaling` is how pictures are brought to a network's size."""
    seconds = preset.evaluation_seconds
    return [
        Embed(kind, preset, VideoSettings(seconds, scaling, kind.settings(preset)))
        for kind in _networks(preset, "video")
    ]


def _networks(preset: Preset, what: str) -> list[Any]:
    """Classes of the preset's networks that embed sounds, or videos."""
    return [NETWORKS[n].load_class() for n in preset.networks if what in NETWORKS[n].embeds]
