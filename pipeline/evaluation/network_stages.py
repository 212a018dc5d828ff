"""Stages of evaluation: every sound is checked and heard by each network, every video watched by those with eyes.

They run over the clips of a warehouse of their own (HOME/systems), so that these files never mix
with a corpus; a sound that was heard under the same fingerprint is never heard again.
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

from model.presets.preset import Preset
from pipeline.media import Framing, Scaling
from pipeline.media.mono import Channel, Frames, Samples, check_sound, read_pictures, read_sound
from pipeline.stages.reading import read_each, read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field

CHUNK = 8  # clips whose media is held at once


@dataclass(frozen=True)
class SoundSettings:
    """What of a sound is heard: its first so many seconds, and of which channel.

    And how the network is set.
    """

    seconds: float
    channel: Channel = "mean"
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PictureSettings:
    """What of a video is seen: its first so many seconds, scaled how.

    And how the network is set.
    """

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
        """Facts of each sound.

        One that cannot be decoded, or holds NaN or nothing, fails with its reason.
        """

        def judge(found: dict[str, Any]) -> Outcome:
            return Passed(found | {"sound_onsets": json.dumps(found["sound_onsets"])})

        return read_each(
            clips,
            lambda clip: partial(check_sound, Path(clip["path"]), self.settings.seconds),
            judge,
        )


class _Embed(Stage):
    """Base of the stages that keep what a network says."""

    batch_size = 64

    def __init__(self, kind: Any, preset: Preset, verb: str) -> None:
        self.kind, self.preset, self.name = kind, preset, f"{verb}_{kind.stem}"
        self.schema = pa.schema(
            [
                array_field(f"{self.name}_features", "<f4", (-1,), "features, row by row"),
                field(f"{self.name}_pieces", pa.int32(), "rows of the features"),
                array_field(
                    f"{self.name}_logits",
                    "<f4",
                    (-1,),
                    "logits, empty where the network has no classes",
                ),
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
            values = (
                features,
                len(features),
                np.zeros(0, np.float32) if logits is None else logits,
            )
            kept = [v if isinstance(v, int) else np.asarray(v, "<f4").tobytes() for v in values]
            rows.append(Passed(dict(zip(self.schema.names, kept, strict=True))))
        return rows


class Hear(_Embed):
    """What a network hears in each sound."""

    upstream = ("sound",)

    def __init__(self, kind: Any, preset: Preset, settings: SoundSettings) -> None:
        super().__init__(kind, preset, "hear")
        self.settings = settings

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Features and logits of each sound."""

        def job(clip: Clip) -> partial[Samples]:
            path, kept = Path(clip["path"]), self.settings
            return partial(read_sound, path, self._network.sample_rate, kept.seconds, kept.channel)

        def run(ready: Sequence[tuple[Clip, Samples]]) -> list[Passed]:
            return self._rows(self._network.hear([sound for _, sound in ready]))

        return read_then_run(clips, job, run, CHUNK)


class Watch(_Embed):
    """What a network sees in each video."""

    def __init__(self, kind: Any, preset: Preset, settings: PictureSettings) -> None:
        super().__init__(kind, preset, "watch")
        self.settings = settings

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Features of each video; after the end of a shorter one its last picture stays."""
        network = self._network
        framing = Framing(
            network.size, network.size if network.crop else None, self.settings.scaling
        )
        times = network.times(self.settings.seconds)

        def run(ready: Sequence[tuple[Clip, Frames]]) -> list[Passed]:
            return self._rows(network.watch([frames for _, frames in ready]))

        return read_then_run(
            clips,
            lambda clip: partial(read_pictures, Path(clip["path"]), times, framing),
            run,
            CHUNK,
        )


def evaluation_stages(
    preset: Preset, channel: Channel = "mean", scaling: Scaling = "bicubic"
) -> tuple[list[Stage], list[Stage]]:
    """(stages over sounds, stages over videos) of a preset.

    `channel` is what ImageBind hears of a stereo sound; `scaling` is how pictures are brought to a
    network's size.
    """
    from model.networks.imagebind import ImageBind
    from model.networks.panns import Cnn14
    from model.networks.passt import Passt
    from model.networks.synchformer import Synchformer
    from model.networks.vggish import VGGish

    seconds = preset.evaluation_seconds
    sounds: list[Stage] = [SoundCheck(seconds)]
    for kind in (Cnn14, Passt, VGGish, Synchformer, ImageBind):
        heard = channel if kind is ImageBind else "mean"
        sounds.append(Hear(kind, preset, SoundSettings(seconds, heard, kind.settings(preset))))
    videos = [
        Watch(kind, preset, PictureSettings(seconds, scaling, kind.settings(preset)))
        for kind in (ImageBind, Synchformer)
    ]
    return sounds, list(videos)
