"""Mono sound as the networks of evaluation take it, read by workers that load no torch."""

from pathlib import Path
from typing import Literal

import numpy as np
import soxr

from model.metrics.onsets import detect_onsets
from model.types import Audio
from pipeline.media.sound import decode_audio
from warehouse.files import Json

Channel = Literal["mean", "left"]

SILENT_DB = -60.0  # a sound whose loudest sample is under this is silent
CLIPPED = 0.999
ONSET_RATE = 16000


def read_sound(path: Path, sample_rate: int, seconds: float, channel: Channel = "mean") -> Audio:
    """The first `seconds` of a file's sound, mono, without DC; raises MediaError."""
    sound = decode_audio(path)
    samples = sound.samples if channel == "mean" else sound.samples[:1]
    return heard(samples, sound.sample_rate, sample_rate, seconds)


def heard(samples: Audio, own_rate: int, sample_rate: int, seconds: float) -> Audio:
    """The first `seconds` of samples [channels, S] at `own_rate`, as a network takes them.

    In the benchmark's order: mean of the channels, minus the mean of the whole sound, resampled to
    `sample_rate`, cut.
    """
    mono = samples.mean(0, dtype=np.float32)
    mono = mono - mono.mean(dtype=np.float64).astype(np.float32) if len(mono) else mono
    if own_rate != sample_rate:
        mono = soxr.resample(mono, own_rate, sample_rate)
    return np.ascontiguousarray(mono[: round(seconds * sample_rate)], np.float32)


def check_sound(path: Path, seconds: float) -> Json:
    """Facts of a sound before it is compared; raises MediaError for one that cannot be."""
    sound = decode_audio(path)
    mono = heard(sound.samples, sound.sample_rate, ONSET_RATE, seconds)
    level = np.abs(sound.samples)
    clipped = float((level >= CLIPPED).mean()) if level.size else 0.0
    return {
        "sound_seconds": sound.samples.shape[1] / sound.sample_rate,
        "sound_rate": sound.sample_rate,
        "sound_channels": len(sound.samples),
        "sound_peak_db": float(20 * np.log10(max(float(level.max(initial=0.0)), 1e-10))),
        "sound_clipped_share": clipped,
        "sound_onsets": [round(t, 4) for t in detect_onsets(mono, ONSET_RATE).tolist()],
    }
