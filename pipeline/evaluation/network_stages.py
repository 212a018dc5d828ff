"""Stages of evaluation: every sound is checked and embedded by each network, every video by some.

They run over the clips of a warehouse of their own (HOME/systems), so that these files never mix
with a corpus; what was embedded under the same fingerprint is never embedded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.presets.networks import NETWORKS
from model.presets.preset import Preset
from model.types import Audio, Frames
from pipeline.media import Framing, Scaling, read_frames
from pipeline.media.mono import Channel, check_sound, read_sound
from pipeline.stages.reading import read_each, read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field

CHUNK = 8  # clips whose media is held at once


@dataclass(frozen=True)
class SoundSettings:
    """Which part of a sound is read (its first seconds, of which channel), and the network's."""

    seconds: float
    channel: Channel = "mean"
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class VideoSettings:
    """Which part of a video is read (its first seconds), how it is scaled, and the network's."""

    seconds: float
    scaling: Scaling = "bicubic"  # the benchmark's
    network: Mapping[str, Any] | None = None


class SoundCheck(Stage):
    """Is there a sound, how long is it, is it silent or clipped, and when are its onsets?"""

    name = "sound"
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

        def job(clip: Clip) -> partial[dict[str, Any]]:
            return partial(check_sound, Path(clip["path"]), self.settings.seconds)

        def outcome(facts: dict[str, Any]) -> Outcome:
            return Passed(facts | {"sound_onsets": json.dumps(facts["sound_onsets"])})

        return read_each(clips, job, outcome)


class _Embed(Stage):
    """Base of the stages that keep what a network computes of a file."""

    batch_size = 64

    def __init__(self, kind: Any, preset: Preset, verb: str) -> None:
        self.kind, self.preset, self.name = kind, preset, f"{verb}_{kind.name}"
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
        """Content hash of the network's weights."""
        return self.kind.revision(self.preset)

    def setup(self) -> None:
        """Load the network."""
        self._network: Any = self.kind.from_pretrained(self.preset)

    def _rows(self, embedded: Sequence[Any]) -> list[Passed]:
        rows: list[Passed] = []
        for features, logits in embedded:
            arrays = (features, np.zeros(0) if logits is None else logits)
            packed = [np.asarray(array, "<f4").tobytes() for array in arrays]
            values = (packed[0], len(features), packed[1])
            rows.append(Passed(dict(zip(self.schema.names, values, strict=True))))
        return rows


class EmbedAudio(_Embed):
    """What a network computes of each sound."""

    upstream = ("sound",)

    def __init__(self, kind: Any, preset: Preset, settings: SoundSettings) -> None:
        super().__init__(kind, preset, "hear")
        self.settings = settings

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Features and logits of each sound."""
        rate, read = self._network.sample_rate, self.settings

        def job(clip: Clip) -> partial[Audio]:
            return partial(read_sound, Path(clip["path"]), rate, read.seconds, read.channel)

        def run(ready: Sequence[tuple[Clip, Audio]]) -> list[Passed]:
            return self._rows(self._network.hear([sound for _, sound in ready]))

        return read_then_run(clips, job, run, CHUNK)


class EmbedVideo(_Embed):
    """What a network computes of the picture of each video."""

    def __init__(self, kind: Any, preset: Preset, settings: VideoSettings) -> None:
        super().__init__(kind, preset, "watch")
        self.settings = settings

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Features of each video; after the end of a shorter one its last picture stays."""
        network = self._network
        crop = network.size if network.crop else None
        framing = Framing(network.size, crop, self.settings.scaling)
        times = network.times(self.settings.seconds)

        def job(clip: Clip) -> partial[Frames]:
            return partial(read_frames, Path(clip["path"]), times, framing)

        def run(ready: Sequence[tuple[Clip, Frames]]) -> list[Passed]:
            return self._rows(network.watch([frames for _, frames in ready]))

        return read_then_run(clips, job, run, CHUNK)


def sound_stages(preset: Preset, channel: Channel = "mean") -> list[Stage]:
    """Stages over sounds; `channel` is what ImageBind hears of a stereo sound."""
    seconds = preset.evaluation_seconds
    stages: list[Stage] = [SoundCheck(seconds)]
    for name in preset.networks:
        if "sound" in NETWORKS[name].embeds:
            kind = NETWORKS[name].load_class()
            part = channel if name == "imagebind" else "mean"
            settings = SoundSettings(seconds, part, kind.settings(preset))
            stages.append(EmbedAudio(kind, preset, settings))
    return stages


def video_stages(preset: Preset, scaling: Scaling = "bicubic") -> list[Stage]:
    """Stages over videos; `scaling` is how pictures are brought to a network's size."""
    stages: list[Stage] = []
    for name in preset.networks:
        if "video" in NETWORKS[name].embeds:
            kind = NETWORKS[name].load_class()
            settings = VideoSettings(preset.evaluation_seconds, scaling, kind.settings(preset))
            stages.append(EmbedVideo(kind, preset, settings))
    return stages
