"""What sound that is made for worlds is worth: time, force, place, material, cause and rest.

Each is measured against the truth of the simulation. A claim is a number a clip or a hit, so that
intervals can be taken over clips. Sounds are [2, S] at `rate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.stats import spearmanr

from model.metrics.onsets import detect_onsets, sync_score
from model.types import Audio, Times
from pipeline.world.materials import NAMES, MaterialName
from pipeline.world.scene import Floats

TOLERANCE = 0.06  # s, between an onset and its hit
OFF_THE_MIDDLE = 0.25  # of the way from the middle of the picture to its side
_AFTER = 0.08  # s after a hit in which it is measured

Truth = dict[str, Any]


def onsets(sound: Audio, rate: int) -> Times:
    """Onset times of a stereo sound, s."""
    return detect_onsets(sound.mean(0), rate)


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


def heard_hits(truth: Truth, visible: bool | None = True) -> list[dict[str, Any]]:
    """The hits of a clip that can be heard by themselves, and are visible, or not, or either."""
    return [
        event
        for event in truth["events"]
        if event["kind"] == "hit" and event["heard"] and visible in (None, event["visible"])
    ]


def _power(sound: Audio, t: float, rate: int) -> Floats:
    """Mean power of each channel after `t` seconds -> [2]."""
    start = max(0, round((t - 0.01) * rate))
    part = sound[:, start : start + round((_AFTER + 0.01) * rate)].astype(np.float64)
    return np.square(part).mean(1) + 1e-10


@dataclass(frozen=True)
class AtHits:
    """What was heard at visible hits of clips: one entry a hit."""

    true_db: Floats
    made_db: Floats
    pan: Floats  # of the picture, -1 left .. 1 right
    made_side: Floats  # dB by which the right channel is louder
    met: Floats  # 1 where an onset was made within 60 ms

    @property
    def force(self) -> float:
        """Rank correlation of the loudness that was made with the true one."""
        return float(np.asarray(spearmanr(self.true_db, self.made_db))[0])

    @property
    def place(self) -> float:
        """Share of hits off the middle, and met, whose louder side is the right one."""
        off = (np.abs(self.pan) >= OFF_THE_MIDDLE) & (self.met > 0)
        return float((np.sign(self.pan) == np.sign(self.made_side))[off].mean())

    @property
    def off_the_middle(self) -> int:
        """How many hits `place` is of."""
        return int(((np.abs(self.pan) >= OFF_THE_MIDDLE) & (self.met > 0)).sum())


def at_hits(
    truths: Sequence[Truth], true: Sequence[Audio], made: Sequence[Audio], rate: int
) -> AtHits:
    """Compare sounds that were made with the true ones at every visible hit."""
    rows: list[tuple[float, ...]] = []
    for truth, own, other in zip(truths, true, made, strict=True):
        found = onsets(other, rate)
        for hit in heard_hits(truth):
            t = hit["time"]
            a, b = _power(own, t, rate), _power(other, t, rate)
            near = bool(len(found)) and float(np.abs(found - t).min()) <= TOLERANCE
            levels = 10 * np.log10(a.sum()), 10 * np.log10(b.sum())
            rows.append((*levels, hit["pan"], 10 * np.log10(b[1] / b[0]), float(near)))
    return AtHits(*np.array(rows).T)


def recall(truths: Sequence[Truth], made: Sequence[Audio], rate: int, visible: bool) -> float:
    """Share of visible, or of unseen, hits that have an onset within 60 ms."""
    met: list[bool] = []
    for truth, sound in zip(truths, made, strict=True):
        found = onsets(sound, rate)
        met += [
            bool(len(found)) and float(np.abs(found - hit["time"]).min()) <= TOLERANCE
            for hit in heard_hits(truth, visible)
        ]
    return float(np.mean(met)) if met else float("nan")


class MaterialJudge:
    """Tells the material of what hits from sound: linear discriminants of spectra at onsets.

    Learnt from true sounds. Features of an onset are its log spectrum in bands, less its mean, and
    how much each band falls within 60 ms.
    """

    def __init__(self, sounds: Sequence[Audio], labels: Sequence[str], rate: int) -> None:
        self.rate = rate
        groups = [
            (self._features(sound), NAMES.index(cast("MaterialName", label)))
            for sound, label in zip(sounds, labels, strict=True)
        ]
        x = np.concatenate([features for features, _ in groups])
        y = np.concatenate([np.full(len(features), label) for features, label in groups])
        self.means = np.stack([x[y == i].mean(0) for i in range(len(NAMES))])
        within = x - self.means[y]
        spread = within.T @ within / len(x) + 0.05 * np.eye(x.shape[1])
        self.inverse = np.linalg.inv(spread)

    def __call__(self, sound: Audio) -> str | None:
        """The material of a sound [2, S]; None where nothing is heard."""
        features = self._features(sound)
        if not len(features):
            return None
        apart = features[:, None] - self.means  # [onsets, materials, features]
        distance = np.einsum("omf,fg,omg->om", apart, self.inverse, apart)
        return NAMES[int(distance.sum(0).argmin())]

    def _features(self, sound: Audio) -> Floats:
        """[onsets, features]."""
        mono, edges = sound.mean(0).astype(np.float64), np.geomspace(80, 7600, 33)
        size, rows = round(0.064 * self.rate), list[Floats]()
        bins = np.digitize(np.fft.rfftfreq(size, 1 / self.rate), edges)
        for t in onsets(sound, self.rate):
            start = round((t + 0.002) * self.rate)
            parts = [mono[start + k : start + k + size] for k in (0, size)]
            if len(parts[1]) < size:
                continue
            bands = [_bands(part, bins) for part in parts]
            rows.append(np.concatenate([bands[0] - bands[0].mean(), bands[1] - bands[0]]))
        return np.array(rows).reshape(-1, 64)


def _bands(part: Floats, bins: np.ndarray) -> Floats:
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    total = np.bincount(bins, power, 34)[1:33]
    return np.log10(total + 1e-6)


def shares(judge: MaterialJudge, sounds: Iterable[Audio], materials: Iterable[str]) -> float:
    """Share of sounds that are of the material they should be of."""
    return float(np.mean([judge(s) == m for s, m in zip(sounds, materials, strict=True)]))


def follows_cause(
    truths: tuple[Truth, Truth], made: tuple[Audio, Audio], act: tuple[float, float], rate: int
) -> tuple[bool, bool]:
    """Whether what differs in one act of a pair is heard there, and nowhere else.

    Heard there: in the act, the second sound agrees better with the second truth than the first
    sound does (F1 at 60 ms). Nowhere else: outside of it, the two sounds have the same onsets
    (F1 of one against the other .9 or more).
    """
    found = [onsets(sound, rate) for sound in made]
    begin, end = act
    wanted = np.array(truths[1]["impacts"], float)

    def inside(times: Times) -> Times:
        return times[(times >= begin) & (times < end)]

    def outside(times: Times) -> Times:
        return times[(times < begin) | (times >= end)]

    def agreement(a: Times, b: Times) -> float:
        return 1.0 if not len(a) + len(b) else sync_score([a], [b]).f1_60ms

    before, after = (agreement(inside(wanted), inside(times)) for times in found)
    return after > before, agreement(outside(found[0]), outside(found[1])) >= 0.9


def false_onsets(
    rests: Sequence[Sequence[tuple[float, float]]], made: Sequence[Audio], rate: int
) -> tuple[float, float]:
    """Onsets a second in stretches (from, to) of clips in which nothing is to be heard; seconds."""
    count, seconds = 0, 0.0
    for stretches, sound in zip(rests, made, strict=True):
        found = onsets(sound, rate)
        for begin, end in stretches:
            seconds += end - begin
            count += int(((found >= begin) & (found < end)).sum())
    return count / seconds, seconds
