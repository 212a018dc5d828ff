"""Sounds over a clip's own that its picture does not show: like speech, and like music."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.types import Audio

Overlay = Literal["speech", "music"]
OVERLAYS: tuple[Overlay, ...] = get_args(Overlay)
_FORMANTS = ((730, 1090), (270, 2290), (300, 870), (530, 1840), (570, 840))  # Hz, of vowels
_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # semitones over the key


def overlay(audio: Audio, kind: Overlay, severity: float, seed: int, sample_rate: int) -> Audio:
    """A sound [..., n] under speech or music, 12 to -6 dB quieter than its loudest tenth."""
    rng = np.random.default_rng(seed)
    loud = np.sqrt(np.mean(np.sort(np.square(audio, dtype=np.float64), None)[-audio.size // 10 :]))
    make = _speech if kind == "speech" else _music
    wave = make(audio.shape[-1], sample_rate, rng)
    wave *= loud * 10 ** (-(12 - 18 * severity) / 20) / max(np.sqrt(np.square(wave).mean()), 1e-9)
    return np.clip(audio + wave, -1, 1).astype(np.float32)


def _speech(n: int, rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Syllables of a voice: harmonics of a gliding pitch under two formants, with pauses."""
    out, start = np.zeros(n), 0
    pitch = rng.uniform(90, 220)
    while start < n:
        length = int(rng.uniform(0.12, 0.3) * rate)
        t = np.arange(min(length, n - start)) / rate
        glide = pitch * (1 + rng.uniform(-0.15, 0.15) * t / 0.3)
        phase = 2 * np.pi * np.cumsum(glide) / rate
        first, second = _FORMANTS[rng.integers(len(_FORMANTS))]
        for h in range(1, int(3500 / pitch)):
            f = h * pitch
            gain = np.exp(-(((f - first) / 120) ** 2)) + 0.5 * np.exp(-(((f - second) / 180) ** 2))
            out[start : start + len(t)] += (gain + 0.02) * np.sin(h * phase) * _fade(t, 0.03)
        pause = rng.uniform(0.2, 0.5) if rng.random() < 0.2 else rng.uniform(0.02, 0.06)
        start += length + int(pause * rate)
    return out


def _music(n: int, rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A chord a beat in one key, plucked, over a bass."""
    out, key, beat = np.zeros(n), rng.uniform(110, 220), int(rng.uniform(0.3, 0.6) * rate)
    for i, start in enumerate(range(0, n, beat)):
        t = np.arange(min(2 * beat, n - start)) / rate
        for note in (-12, *_CHORDS[i % len(_CHORDS)]):
            f = key * 2 ** (note / 12)
            tone = sum(np.sin(2 * np.pi * f * h * t) / h**1.5 for h in (1, 2, 3, 4))
            out[start : start + len(t)] += tone * np.exp(-4 * t) * _fade(t, 0.005)
    return out


def _fade(t: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """Gain that rises at the beginning and falls at the end."""
    return np.minimum(1, np.minimum(t, t[-1] - t) / seconds) if len(t) else t
