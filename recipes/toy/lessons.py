"""What scorers and evaluation networks learn from: clips whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from model.types import Audio, Frames, Times
from pipeline.procedural import (
    FPS,
    MATERIALS,
    SAMPLE_RATE,
    ProceduralClip,
    render_audio,
    render_frames,
    sample_clip,
)
from pipeline.procedural.degrading import KINDS, degrade
from pipeline.procedural.overlaying import OVERLAYS, overlay

SECONDS = 4.0
FIRST_SEED = 600_000_000  # beyond those of any corpus and of the backbone's training
UNSEEN = 50_000_000  # added to the numbers of clips that are only measured on


class Lesson(Protocol):
    """A clip with its truth."""

    @property
    def impacts(self) -> Sequence[float]:
        """When things hit, s."""
        ...

    @property
    def material(self) -> str:
        """The class of its sound."""
        ...

    def sound(self) -> Audio:
        """Mono [S] at 16 kHz."""
        ...

    def pictures(self, times: Times) -> Frames:
        """What a player shows at these times (s) -> uint8 [T, H, W, 3], square."""
        ...


@dataclass(frozen=True)
class Lessons:
    """Where clips come from: (count, number of the first) -> clips."""

    clips: Callable[[int, int], Sequence[Lesson]]
    classes: Sequence[str]  # the materials
    flaws: Mapping[str, float]  # kinds that Audiobox has to hear, and how often it learns each


@dataclass(frozen=True)
class ProceduralLesson:
    """A procedural clip."""

    clip: ProceduralClip

    @property
    def impacts(self) -> Sequence[float]:
        """When things hit, s."""
        return self.clip.impacts

    @property
    def material(self) -> str:
        """What is struck."""
        return self.clip.material

    def sound(self) -> Audio:
        """Mono [S] at 16 kHz."""
        return render_audio(self.clip)

    def pictures(self, times: Times) -> Frames:
        """Pictures [T, 64, 64, 3]."""
        return at_times(render_frames(self.clip), FPS, times)


def clips_of(count: int, first: int, seconds: float = SECONDS) -> list[ProceduralClip]:
    """Procedural clips that no corpus holds."""
    return [sample_clip(FIRST_SEED + first + i, seconds) for i in range(count)]


#: Of the toy.
PROCEDURAL = Lessons(
    lambda count, first: [ProceduralLesson(clip) for clip in clips_of(count, first)],
    MATERIALS,
    dict(zip(KINDS, (0.15, 0.3, 0.4, 0.15), strict=True)),  # the harder kinds more often
)


def at_times(frames: Frames, fps: float, times: Times) -> Frames:
    """Those of frames [T, H, W, 3] that a player shows at these times (s)."""
    return frames[np.minimum((times * fps + 1e-6).astype(int), len(frames) - 1)]


def sounds_of(clips: Sequence[Lesson], sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Sounds [clips, S], rendered at 16 kHz and resampled, as files of the toy give them."""
    waves = [clip.sound() for clip in clips]
    if sample_rate != SAMPLE_RATE:
        waves = [soxr.resample(wave, SAMPLE_RATE, sample_rate) for wave in waves]
    return torch.from_numpy(np.stack(waves))


def spoiled(sound: Audio, kind: str, severity: float, seed: int) -> Audio:
    """A sound [S] at 16 kHz with one of a corpus's flaws."""
    if kind in OVERLAYS:
        return overlay(sound, kind, severity, seed, SAMPLE_RATE)
    return degrade(sound, cast("Any", kind), severity, seed)


def resized(pictures: Frames, side: int) -> Frames:
    """Square pictures [T, H, W, 3] at another side; smaller ones are means of what they cover."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    mode = "area" if side < pictures.shape[1] else "bilinear"
    return F.interpolate(tensor, (side, side), mode=mode).permute(0, 2, 3, 1).round().byte().numpy()
