"""Tags: how much of a clip's sound is speech or music, where an audio tagger is configured.

Facts, and no gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.presets.preset import ModelError, Preset
from model.presets.settings import TaggerSettings
from pipeline.media import MAX_SECONDS
from pipeline.media.mono import Samples, read_sound
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field

CHUNK = 8  # clips whose sound is held at once


@dataclass(frozen=True)
class TagSettings:
    """Windows of so many seconds.

    A window is speech (music) where any class of it is at least this probable.
    """

    window: float
    threshold: float
    speech: Mapping[str, int]
    music: Mapping[str, int]


class Tags(Stage):
    """Shares of time in which PANNs hears speech and music."""

    name = "tags"
    version = 1
    upstream = ("probe", "silence")
    schema = pa.schema(
        [
            field("speech_share", pa.float32(), "share of time that is tagged as speech, 0..1"),
            field("music_share", pa.float32(), "share of time that is tagged as music, 0..1"),
        ]
    )
    batch_size = 128

    def __init__(self, preset: Preset, tagger: TaggerSettings) -> None:
        self.preset = preset
        self.settings = TagSettings(tagger.window, tagger.threshold, tagger.speech, tagger.music)

    @property
    def model_revision(self) -> str:
        """Content hash of PANNs' weights."""
        from model.networks.panns import Cnn14

        return Cnn14.revision(self.preset)

    def setup(self) -> None:
        """Load PANNs; raises ModelError if it has not the classes that are asked for."""
        from model.networks.panns import Cnn14

        network = Cnn14.from_pretrained(self.preset)
        count = network.fc_audioset.out_features
        for name, place in {**self.settings.speech, **self.settings.music}.items():
            if not 0 <= place < count:
                raise ModelError(
                    f"scores.tagger: class {name!r} is number {place}, but the tagger has {count} classes"
                )
        self._network: Any = network

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Two shares a clip."""

        def job(clip: Clip) -> partial[Samples]:
            return partial(read_sound, Path(clip["path"]), self._network.sample_rate, MAX_SECONDS)

        return read_then_run(clips, job, self._tag, CHUNK)

    def _tag(self, ready: Sequence[tuple[Clip, Samples]]) -> list[Passed]:
        """Windows of all clips go through the network together.

        The last of a clip may be shorter, and counts less.
        """
        size = round(self.settings.window * self._network.sample_rate)
        windows = [
            [sound[i : i + size] for i in range(0, max(1, len(sound)), size)] for _, sound in ready
        ]
        heard = iter(self._network.hear([window for clip in windows for window in clip]))
        rows: list[Passed] = []
        for clip in windows:
            logits = np.stack([found.logits for found in islice(heard, len(clip))])
            seconds = np.array([max(1, len(window)) for window in clip], np.float64)
            rows.append(
                Passed(
                    {
                        "speech_share": self._share(logits, seconds, self.settings.speech),
                        "music_share": self._share(logits, seconds, self.settings.music),
                    }
                )
            )
        return rows

    def _share(self, logits: np.ndarray, lengths: np.ndarray, classes: Mapping[str, int]) -> float:
        """Share of the lengths [windows] in whose logits [windows, classes] one of these is probable enough."""
        least = np.log(self.settings.threshold / (1 - self.settings.threshold))
        told = (logits[:, list(classes.values())] >= least).any(1)
        return float(lengths[told].sum() / lengths.sum())
