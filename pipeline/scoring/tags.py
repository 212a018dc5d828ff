"""Tags: how much of a sound is speech or music, where the preset asks for it. Facts, no gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from model.presets.preset import Preset
from model.presets.settings import ModelError, TaggerSettings
from model.types import Audio
from pipeline.media import MAX_SECONDS
from pipeline.media.mono import read_sound
from pipeline.scoring.network import NetworkScore
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed

CHUNK = 8  # clips whose sound is held at once


class Tags(NetworkScore):
    """Shares of time in which PANNs hears speech and music."""

    name = "tags"
    network = "panns"
    batch_size = 128

    def __init__(self, preset: Preset, tagger: TaggerSettings) -> None:
        super().__init__(preset)
        self.settings = tagger

    def setup(self) -> None:
        """Load PANNs; raises ModelError if it has not the classes that are asked for."""
        super().setup()
        count = self._network.fc_audioset.out_features
        for name, place in {**self.settings.speech, **self.settings.music}.items():
            if not 0 <= place < count:
                raise ModelError(
                    f"scores.tagger: class {name!r} is number {place}, "
                    f"but the tagger has {count} classes"
                )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Two shares a clip."""

        def job(clip: Clip) -> partial[Audio]:
            return partial(read_sound, Path(clip["path"]), self._network.sample_rate, MAX_SECONDS)

        return read_then_run(clips, job, self._tag, CHUNK)

    def _tag(self, ready: Sequence[tuple[Clip, Audio]]) -> list[Passed]:
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
            logits = np.stack([window.logits for window in islice(heard, len(clip))])
            seconds = np.array([max(1, len(window)) for window in clip], np.float64)
            speech, music = (
                self._share(logits, seconds, classes)
                for classes in (self.settings.speech, self.settings.music)
            )
            rows.append(Passed({"speech_share": speech, "music_share": music}))
        return rows

    def _share(self, logits: np.ndarray, lengths: np.ndarray, classes: Mapping[str, int]) -> float:
        """Share of the lengths [windows] where a class of `logits` [windows, classes] is likely."""
        least = np.log(self.settings.threshold / (1 - self.settings.threshold))
        likely = (logits[:, list(classes.values())] >= least).any(1)
        return float(lengths[likely].sum() / lengths.sum())
