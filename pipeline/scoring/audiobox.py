"""Audiobox Aesthetics: how good a sound is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from model.presets.preset import Preset
from pipeline.media import read_audio
from pipeline.scoring.imagebind import CHUNK, SCORER_RATE, Audio
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import field


class AudioboxScore(Stage):
    """Audiobox Aesthetics of the sound."""

    name = "audiobox"
    version = 1
    upstream = ("probe", "silence")
    schema = pa.schema(
        [
            field("ce", pa.float32(), "Audiobox content enjoyment, about 1..10"),
            field("cu", pa.float32(), "Audiobox content usefulness, about 1..10"),
            field("pc", pa.float32(), "Audiobox production complexity, about 1..10"),
            field("pq", pa.float32(), "Audiobox production quality, about 1..10"),
        ]
    )
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset = preset

    @property
    def model_revision(self) -> str:
        """Content hash of Audiobox's weights."""
        from model.networks.audiobox import AudioboxScorer

        return AudioboxScorer.revision(self.preset)

    def setup(self) -> None:
        """Load Audiobox Aesthetics."""
        from model.networks.audiobox import AudioboxScorer

        self._scorer: Any = AudioboxScorer.from_pretrained(self.preset)

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Four scores a clip."""
        return read_then_run(
            clips,
            self._reading,
            lambda ready: [
                Passed(row) for row in self._scorer.score([audio for _, audio in ready])
            ],
            CHUNK,
        )

    def _reading(self, clip: Clip) -> partial[Audio]:
        return partial(read_audio, Path(clip["path"]), SCORER_RATE)
