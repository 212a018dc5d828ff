"""Tags: how much of a sound is speech or music, where the preset asks for it. Facts, no gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.presets.preset import Preset
from model.presets.settings import ModelError, TaggerSettings
from model.types import Audio
from pipeline.media import MAX_SECONDS
from pipeline.media.mono import read_sound
from pipeline.scoring.network import NetworkScore
from pipeline.stages.reading import read_then_run, reading
from pipeline.stages.stage import Clip, Outcome, Passed

CHUNK = 8  # clips whose sound is held at once


@dataclass(frozen=True)
class Heard:
    """Windows of a sound: how long each is in seconds, and whether it holds speech, or music."""

    seconds: NDArray[np.float64]
    speech: NDArray[np.bool_]
    music: NDArray[np.bool_]

    def share(self, kind: str) -> float:
        """Share of the time in which `speech` or `music` is heard."""
        return float(self.seconds[getattr(self, kind)].sum() / self.seconds.sum())


class Tagger:
    """PANNs by a preset's windows and classes; raises ModelError where it lacks one of these."""

    def __init__(self, network: Any, settings: TaggerSettings) -> None:
        self.network, self.settings = network, settings
        count = network.fc_audioset.out_features
        for name, place in {**settings.speech, **settings.music}.items():
            if not 0 <= place < count:
                raise ModelError(
                    f"scores.tagger: class {name!r} is number {place}, "
                    f"but the tagger has {count} classes"
                )

    def hear(self, sounds: Sequence[Audio]) -> list[Heard]:
        """What is in mono sounds [n] at the network's rate.

        Windows of all go through the network together; the last of a sound may be shorter.
        """
        size = round(self.settings.window * self.network.sample_rate)
        windows = [[s[i : i + size] for i in range(0, max(1, len(s)), size)] for s in sounds]
        logits = iter(self.network.hear([window for sound in windows for window in sound]))
        found: list[Heard] = []
        for sound in windows:
            own = np.stack([one.logits for one in islice(logits, len(sound))])
            seconds = np.array([max(1, len(window)) for window in sound], np.float64)
            likely = (self._likely(own, c) for c in (self.settings.speech, self.settings.music))
            found.append(Heard(seconds / self.network.sample_rate, *likely))
        return found

    def _likely(self, logits: np.ndarray, classes: Mapping[str, int]) -> NDArray[np.bool_]:
        """Whether a class of `logits` [windows, classes] is likely."""
        least = np.log(self.settings.threshold / (1 - self.settings.threshold))
        return (logits[:, list(classes.values())] >= least).any(1)


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
        self._tagger = Tagger(self._network, self.settings)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Two shares a clip."""
        job = reading(read_sound, self._network.sample_rate, MAX_SECONDS)
        return read_then_run(clips, job, self._tag, CHUNK)

    def _tag(self, ready: Sequence[tuple[Clip, Audio]]) -> list[Passed]:
        heard = self._tagger.hear([sound for _, sound in ready])
        return [
            Passed({"speech_share": one.share("speech"), "music_share": one.share("music")})
            for one in heard
        ]
