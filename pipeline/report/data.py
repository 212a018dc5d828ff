"""What the report shows, as plain values: it computes no result of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ReportSound(NamedTuple):
    """One sound of a clip.

    `audio` is float32 in -1..1, mono [S] or [C, S]; `onsets` are detected times in seconds.
    """

    audio: NDArray[np.float32]
    sample_rate: int
    onsets: Collection[float] = ()


@dataclass(frozen=True)
class Score:
    """The raw values of one score over all clips, and what the policy asks of it (both bounds optional)."""

    values: Collection[float]
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class ReportClip:
    """One clip with a player.

    `video` is the bytes of an mp4 that a browser can play; `impacts` are known times in seconds,
    empty if unknown; `sounds` maps a condition (original, true, other, swap or swapped, none) to
    its sound.
    """

    clip_id: str
    prompt: str
    video: bytes
    sounds: Mapping[str, ReportSound]
    impacts: Collection[float] = ()
    swapped_prompt: str | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything in the report. Any part may be empty: its section then says that it was not measured.

    `results` is the content of results.json; every figure shown is formatted from it. `scores` maps
    a score's name (silent_share, imagebind, ce, cu, pc, pq, desync, speech_share, music_share) to
    its values. `loss` is (step, loss); `validation` is (step, true, null, other), all v-losses.
    `notes` maps a section (sync, clips, prompt_swap, v_loss, funnel, scores) or a scorer (silence,
    imagebind, audiobox, synchformer, panns) to a sentence shown there, such as what the scores of
    untrained scorers are worth.
    """

    results: Mapping[str, Any]
    scores: Mapping[str, Score] = field(default_factory=dict[str, Score])
    loss: Sequence[tuple[int, float]] = ()
    validation: Sequence[tuple[int, float, float, float]] = ()
    clips: Sequence[ReportClip] = ()
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    title: str = "foley demo"
