"""What sound for worlds is worth beside its time: force, place, material, cause and rest.

Each claim is measured against the truth of the simulation, as a corpus of worlds has it. Sounds are
[2, S] at `rate`; a mono one has no side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from model.metrics.onsets import detect_onsets, sync_score
from model.types import Audio, Times
from warehouse.files import Json

TOLERANCE = 0.06  # s, between an onset and its hit
OFF_THE_MIDDLE = 0.25  # of the way from the middle of the picture to its side
_AFTER = 0.08  # s after a hit in which it is measured
_WARM_UP = 0.3  # s of an act in which what was before may ring
_BANDS = 32

Truth = Json
Floats = NDArray[np.float64]


def onsets(sound: Audio, rate: int) -> Times:
    """Onset times of a stereo sound, s."""
    return detect_onsets(sound.mean(0), rate)


class Hit(NamedTuple):
    """What was heard at one hit that can be heard by itself."""

    true_db: float
    made_db: float
    pan: float  # of the picture, -1 left .. 1 right
    made_side: float  # dB by which the right channel is louder
    met: bool  # whether an onset was made within 60 ms
    visible: bool


def hits_of(truth: Truth, true: Audio, made: Audio, rate: int) -> Iterator[Hit]:
    """Compare a sound that was made with the true one at every hit."""
    found = onsets(made, rate)
    for event in truth["events"]:
        if event["kind"] != "hit" or not event["heard"]:
            continue
        t = event["time"]
        a, b = _power(true, t, rate), _power(made, t, rate)
        met = bool(len(found)) and float(np.abs(found - t).min()) <= TOLERANCE
        side = float(10 * np.log10(b[1] / b[0]))
        levels = float(10 * np.log10(a.sum())), float(10 * np.log10(b.sum()))
        yield Hit(*levels, event["pan"], side, met, event["visible"])


def _power(sound: Audio, t: float, rate: int) -> Floats:
    """Mean power of each channel after `t` seconds -> [2]."""
    start = max(0, round((t - 0.01) * rate))
    part = sound[:, start : start + round((_AFTER + 0.01) * rate)].astype(np.float64)
    return np.square(part).mean(1) + 1e-10


def force(hits: Sequence[Hit]) -> float | None:
    """Rank correlation of the loudness that was made with the true one, at visible hits."""
    seen = [hit for hit in hits if hit.visible]
    if len(seen) < 3:
        return None
    true, made = [hit.true_db for hit in seen], [hit.made_db for hit in seen]
    value = float(np.asarray(spearmanr(true, made))[0])
    return value if np.isfinite(value) else None


def off_the_middle(hits: Sequence[Hit]) -> list[Hit]:
    """The hits that `place` is of: visible, met, and a quarter or more off the middle."""
    return [hit for hit in hits if hit.visible and hit.met and abs(hit.pan) >= OFF_THE_MIDDLE]


def place(hits: Sequence[Hit]) -> float | None:
    """Share of hits off the middle, and met, whose louder side is the right one."""
    return _share(np.sign(hit.pan) == np.sign(hit.made_side) for hit in off_the_middle(hits))


def met(hits: Sequence[Hit], *, visible: bool) -> float | None:
    """Share of visible, or of unseen, hits that have an onset within 60 ms."""
    return _share(hit.met for hit in hits if hit.visible == visible)


def _share(values: Iterator[bool]) -> float | None:
    every = [*values]
    return float(np.mean(every)) if every else None


def rests(truth: Truth) -> list[tuple[float, float]]:
    """Stretches (from, to) of a clip in which things are carried, without a hit, s."""
    hit = {event["act"] for event in truth["events"] if event["kind"] == "hit"}
    return [
        (act["begin"] + _WARM_UP, act["end"])
        for number, act in enumerate(truth["acts"])
        if act["deed"] == "carry" and number not in hit
    ]


def onsets_in(stretches: Sequence[tuple[float, float]], made: Audio, rate: int) -> int:
    """How many onsets a sound has in stretches (from, to)."""
    found = onsets(made, rate)
    return sum(int(((found >= begin) & (found < end)).sum()) for begin, end in stretches)


class MaterialJudge:
    """Tells the material of what hits from sound: linear discriminants of spectra at onsets.

    Learnt from true sounds. Features of an onset are its log spectrum in bands, less its mean, and
    how much each band falls within 60 ms.
    """

    def __init__(self, sounds: Sequence[Audio], labels: Sequence[str], rate: int) -> None:
        self.rate = rate
        groups = [self._features(sound) for sound in sounds]
        x = np.concatenate([np.zeros((0, 2 * _BANDS)), *groups])
        names, y = np.unique(np.repeat([*labels], [*map(len, groups)]), return_inverse=True)
        self.names: list[str] = names.tolist()
        means = [x[y == i].mean(0) for i in range(len(names))]
        self.means = np.array(means).reshape(-1, 2 * _BANDS)
        within = x - self.means[y]
        spread = within.T @ within / max(len(x), 1) + 0.05 * np.eye(x.shape[1])
        self.inverse = np.linalg.inv(spread)

    def __call__(self, sound: Audio) -> str | None:
        """The material of a sound [2, S]; None where nothing is heard."""
        features = self._features(sound)
        if not len(features) or not self.names:
            return None
        apart = features[:, None] - self.means  # [onsets, materials, features]
        distance = np.einsum("omf,fg,omg->om", apart, self.inverse, apart)
        return self.names[int(distance.sum(0).argmin())]

    def _features(self, sound: Audio) -> Floats:
        """[onsets, features]."""
        mono, edges = sound.mean(0).astype(np.float64), np.geomspace(80, 7600, _BANDS + 1)
        size, rows = round(0.064 * self.rate), list[Floats]()
        bins = np.digitize(np.fft.rfftfreq(size, 1 / self.rate), edges)
        for t in onsets(sound, self.rate):
            start = round((t + 0.002) * self.rate)
            parts = [mono[start + k : start + k + size] for k in (0, size)]
            if len(parts[1]) < size:
                continue
            bands = [_bands(part, bins) for part in parts]
            rows.append(np.concatenate([bands[0] - bands[0].mean(), bands[1] - bands[0]]))
        return np.array(rows).reshape(-1, 2 * _BANDS)


def _bands(part: Floats, bins: np.ndarray) -> Floats:
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    total = np.bincount(bins, power, _BANDS + 2)[1 : _BANDS + 1]
    return np.log10(total + 1e-6)


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
