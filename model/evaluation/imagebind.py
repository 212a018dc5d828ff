"""ImageBind as evaluation uses it: the pictures of the benchmark, sound and picture embedded apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from model.evaluation.network import Embedded, Frames, Samples, to_numpy
from model.presets import Preset
from model.scorers import ImageBindScorer, ImageBindViews

MIN_SAMPLES = 640  # less than two frames of its spectrogram


class ImageBind:
    """The network of IB: the cosine of its embeddings of a picture and of a sound."""

    stem: ClassVar[str] = "imagebind"
    sample_rate: ClassVar[int] = 16000
    crop: ClassVar[bool] = False  # it crops for itself

    def __init__(self, scorer: ImageBindScorer) -> None:
        self.scorer = scorer
        self.size = scorer.views.size

    @staticmethod
    def views(preset: Preset) -> ImageBindViews:
        """The preset's windows, with what its evaluation changes."""
        return ImageBindViews(**(preset.imagebind_views | preset.evaluation.get("imagebind", {})))

    @classmethod
    def settings(cls, preset: Preset) -> dict[str, Any]:
        """When and how it looks and listens."""
        return asdict(cls.views(preset))

    @classmethod
    def from_pretrained(cls, preset: Preset) -> ImageBind:
        """Load the published weights strictly."""
        return cls(ImageBindScorer.from_pretrained(preset, cls.views(preset)))

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the weights."""
        return ImageBindScorer.revision(preset)

    def times(self, seconds: float) -> npt.NDArray[np.float64]:
        """Times (s) of the pictures to look at."""
        return self.scorer.views.frame_times(seconds)

    def hear(self, sounds: Sequence[Samples]) -> list[Embedded]:
        """Mono sounds at 16 kHz -> one embedding each [1, D]."""
        long_enough = [np.pad(sound, (0, max(0, MIN_SAMPLES - len(sound)))) for sound in sounds]
        return [Embedded(row[None]) for row in to_numpy(self.scorer.hear(long_enough))]

    def watch(self, clips: Sequence[Frames]) -> list[Embedded]:
        """Pictures of clips at `times` -> one embedding each [1, D]."""
        return [Embedded(to_numpy(self.scorer.watch([frames]))) for frames in clips]
