"""Onsets in audio, and how well they agree with known impact times.

Only procedural clips have known impact times, so this measures the toy exactly and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.types import Audio, Times

WINDOW_S, HOP_S = 0.016, 0.004
MIN_GAP_S = 0.12  # two onsets nearer than this are one
RISE_DB = 6.0  # smallest rise in level that counts as an onset
FLOOR_DB = 35.0  # an onset this far under the loudest one is noise


def detect_onsets(audio: Audio, sample_rate: int) -> Times:
    """Onset times (s) in mono audio [S]: peaks of the rise in level, over a floor of noise."""
    from scipy.ndimage import maximum_filter1d  # here, because scipy takes a second to import
    from scipy.signal import stft

    window, hop = int(WINDOW_S * sample_rate), int(HOP_S * sample_rate)
    if len(audio) < 2 * window:
        return np.zeros(0)
    _, times, spectrum = stft(
        audio, sample_rate, nperseg=window, noverlap=window - hop, padded=False
    )
    level = 10 * np.log10((np.abs(spectrum) ** 2).sum(0) + 1e-10)  # [frames] dB
    level = np.maximum(level, level.max() - FLOOR_DB)
    lag = max(1, int(0.024 / HOP_S))
    rise = np.maximum(level[lag:] - level[:-lag], 0)  # [frames - lag]
    peaks = (rise == maximum_filter1d(rise, 2 * int(MIN_GAP_S / HOP_S / 2) + 1)) & (rise > RISE_DB)
    # the steepest point of a rise measured over `lag` frames lies in the middle of it
    onsets: Times = times[:-lag][peaks] + lag * HOP_S / 2
    return onsets[np.diff(onsets, prepend=-np.inf) > MIN_GAP_S]


@dataclass(frozen=True)
class Sync:
    """Agreement of onsets with impacts, over a set of clips."""

    f1_60ms: float
    f1_100ms: float
    mae_ms: float | None  # over onsets within 100 ms of an impact; None if there is none


def _matched(reference: Times, estimate: Times, tolerance: float) -> list[tuple[int, int]]:
    from mir_eval.util import match_events  # here, because it takes seconds to import

    return list(match_events(reference, estimate, tolerance))


def sync_score(impacts: Sequence[Times], onsets: Sequence[Times]) -> Sync:
    """Agreement of onsets with impacts (s), summed over clips."""
    total = sum(map(len, impacts)) + sum(map(len, onsets))
    pairs = list(zip(impacts, onsets, strict=True))

    def f1(tolerance: float) -> float:
        return 2 * sum(len(_matched(a, b, tolerance)) for a, b in pairs) / total if total else 0.0

    errors = [abs(a[i] - b[j]) for a, b in pairs for i, j in _matched(a, b, 0.1)]
    return Sync(f1(0.06), f1(0.1), float(np.mean(errors)) * 1000 if errors else None)
