"""Audiobox Aesthetics: how good a sound is (paper section 3.2)."""

from collections.abc import Sequence

from model.types import Audio
from pipeline.media import read_audio
from pipeline.scoring.network import NetworkScore
from pipeline.stages.reading import read_then_run, reading
from pipeline.stages.stage import Clip, Outcome, Passed

CHUNK = 8  # clips whose sound is held at once


class AudioboxScore(NetworkScore):
    """Audiobox Aesthetics of the sound."""

    name = "audiobox"
    network = "audiobox"
    batch_size = 512

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Four scores a clip."""

        def run(ready: Sequence[tuple[Clip, Audio]]) -> list[Passed]:
            return [Passed(row) for row in self._network.score([sound for _, sound in ready])]

        job = reading(read_audio, self._network.sample_rate)
        return read_then_run(clips, job, run, CHUNK)
