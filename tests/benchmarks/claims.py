"""Onset F1 of sounds for worlds with its interval over clips, and shares of materials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from model.metrics.onsets import sync_score
from model.types import Audio
from pipeline.evaluation.worlds.claims import Hit, MaterialJudge, Truth, hits_of, onsets


def f1(truths: Sequence[Truth], sounds: Sequence[Audio], rate: int) -> float:
    """Onset F1 at 60 ms over clips."""
    impacts = [np.array(truth["impacts"], float) for truth in truths]
    return sync_score(impacts, [onsets(sound, rate) for sound in sounds]).f1_60ms


def interval(
    truths: Sequence[Truth], sounds: Sequence[Audio], rate: int, draws: int = 500
) -> tuple[float, float]:
    """95% interval of :func:`f1` by bootstrap over clips."""
    impacts = [np.array(truth["impacts"], float) for truth in truths]
    pairs = [
        (len(hits), len(found := onsets(sound, rate)), sync_score([hits], [found]).f1_60ms)
        for hits, sound in zip(impacts, sounds, strict=True)
    ]
    count = np.array([a + b for a, b, _ in pairs], float)
    met = np.array([score for _, _, score in pairs]) * count / 2
    rows = np.random.default_rng(0).integers(len(pairs), size=(draws, len(pairs)))
    values = 2 * met[rows].sum(1) / np.maximum(count[rows].sum(1), 1)
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def all_hits(
    truths: Sequence[Truth], true: Sequence[Audio], made: Sequence[Audio], rate: int
) -> list[Hit]:
    """Those of all clips."""
    clips = zip(truths, true, made, strict=True)
    return [hit for clip in clips for hit in hits_of(*clip, rate)]


def shares(judge: MaterialJudge, sounds: Iterable[Audio], materials: Iterable[str]) -> float:
    """Share of sounds that are of the material they should be of."""
    return float(np.mean([judge(s) == m for s, m in zip(sounds, materials, strict=True)]))
