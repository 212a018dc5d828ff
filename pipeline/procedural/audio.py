"""The sound of a clip by modal synthesis, and a classifier that tells the material from a sound."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.types import Audio
from pipeline.procedural.clip import MATERIALS, Material, ProceduralClip, rng_of

SAMPLE_RATE = 16000

_PEAK = 0.6  # a strike of strength 1, before strikes overlap
_ATTACK = 0.001  # seconds
_NOISE_FLOOR = 3e-4  # about -70 dBFS: silence between strikes is not digital zero
_LONGEST = 0.9  # seconds of ringing
_BANDS = 32


@dataclass(frozen=True)
class _Timbre:
    """Partials in Hz with their gains, the lowest one's decay in seconds, the click's share."""

    partials: tuple[float, ...]
    gains: tuple[float, ...]
    decay: float
    click: float


_TIMBRES: dict[Material, _Timbre] = {
    "metal": _Timbre((620.0, 1490.0, 2570.0, 3910.0), (1.0, 0.9, 0.8, 0.5), 0.20, 0.15),
    "wood": _Timbre((310.0, 790.0, 1180.0), (1.0, 0.7, 0.3), 0.035, 0.25),
    "glass": _Timbre((3100.0, 4650.0, 6350.0), (1.0, 0.9, 0.6), 0.10, 0.10),
    "rubber": _Timbre((95.0, 160.0), (1.0, 0.5), 0.075, 0.02),
}


def _strike(timbre: _Timbre, sample_rate: int, tuning: float, tilt: Audio) -> Audio:
    """One strike of strength 1 -> [n]: partials after a short attack, higher ones decay faster."""
    n = int(min(_LONGEST, 7 * timbre.decay) * sample_rate)
    t = np.arange(n, dtype=np.float32) / np.float32(sample_rate)
    partials = np.asarray(timbre.partials, np.float32) * np.float32(tuning)
    gains = np.asarray(timbre.gains, np.float32) * tilt
    audible = partials < 0.48 * sample_rate
    partials, gains = partials[audible, None], gains[audible, None]
    rates = np.sqrt(partials / partials[0]) / np.float32(timbre.decay)  # 1/s
    waves = np.sin(np.float32(2 * np.pi) * partials * t)  # [partials, n]
    wave = (gains * np.exp(-rates * t) * waves).sum(0) / gains.sum()
    return (wave * np.minimum(t / np.float32(_ATTACK), 1)).astype(np.float32)


def render_audio(clip: ProceduralClip, sample_rate: int = SAMPLE_RATE) -> Audio:
    """The clip's sound -> float32 [round(seconds * sample_rate)], mono, in -1..1.

    Each onset is at its impact time. Tuning (3%) and the partials' gains vary from clip to clip
    within a material.
    """
    rng = rng_of(clip.seed, 1)
    timbre = _TIMBRES[clip.material]
    tilt = rng.uniform(0.7, 1.3, len(timbre.gains)).astype(np.float32)
    strike = _strike(timbre, sample_rate, float(rng.uniform(0.97, 1.03)), tilt)
    click_length = int(0.004 * sample_rate)
    fade = np.linspace(1, 0, click_length, dtype=np.float32) ** 2
    n = round(clip.seconds * sample_rate)
    out = rng.standard_normal(n, dtype=np.float32) * np.float32(_NOISE_FLOOR)
    for impact, strength in zip(clip.impacts, clip.strengths, strict=True):
        start = round(impact * sample_rate)
        ring = strike[: n - start] * np.float32(strength * _PEAK)
        out[start : start + len(ring)] += ring
        click = rng.standard_normal(click_length, dtype=np.float32) * fade
        gain = np.float32(timbre.click * strength * _PEAK / 3)
        out[start : start + click_length] += (click * gain)[: n - start]
    return np.clip(out, -1, 1)


def _band_spectrum(audio: Audio, sample_rate: int) -> NDArray[np.float64]:
    """Amplitude of the loud frames in 32 bands of 60..7500 Hz, unit norm; zeros if silent."""
    size = max(64, round(0.064 * sample_rate))
    padded = np.pad(np.asarray(audio, np.float32), (0, max(0, size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    frames = frames * np.hanning(size).astype(np.float32)
    energy = np.square(frames).sum(1)
    if not np.isfinite(energy).all() or energy.max() < 1e-6:
        return np.zeros(_BANDS)
    loud = frames[energy > 0.1 * energy.max()]  # the strikes and not the noise between them
    power = np.square(np.abs(np.fft.rfft(loud, axis=1))).mean(0)
    edges = np.geomspace(60, 7500, _BANDS + 1)
    band = np.digitize(np.fft.rfftfreq(size, 1 / sample_rate), edges) - 1
    inside = (band >= 0) & (band < _BANDS)
    amplitude = np.sqrt(np.bincount(band[inside], power[inside], _BANDS))
    return amplitude / np.linalg.norm(amplitude)


@lru_cache(maxsize=8)
def _templates(sample_rate: int) -> NDArray[np.float64]:
    """The band spectrum of every material's nominal strike -> [materials, bands]."""
    tunings = (0.97, 0.985, 1.0, 1.015, 1.03)  # a partial near a band's edge falls on either side
    spectra: list[NDArray[np.float64]] = []
    for timbre in (_TIMBRES[material] for material in MATERIALS):
        tilt = np.ones(len(timbre.gains), np.float32)
        strikes = [_strike(timbre, sample_rate, tuning, tilt) for tuning in tunings]
        spectra.append(np.mean([_band_spectrum(strike, sample_rate) for strike in strikes], axis=0))
    return np.stack([mean / np.linalg.norm(mean) for mean in spectra])


def material_scores(audio: Audio, sample_rate: int = SAMPLE_RATE) -> dict[Material, float]:
    """How much a mono sound [n] resembles each material: the cosine of their spectra.

    All scores are 0 for silence (or samples that are not finite).
    """
    scores = _templates(sample_rate) @ _band_spectrum(audio, sample_rate)
    return {material: float(score) for material, score in zip(MATERIALS, scores, strict=True)}


def material_of(audio: Audio, sample_rate: int = SAMPLE_RATE) -> Material | None:
    """The material that a mono sound [n] resembles most, None for silence."""
    scores = material_scores(audio, sample_rate)
    best = max(scores, key=lambda material: scores[material])
    return best if scores[best] > 0 else None
