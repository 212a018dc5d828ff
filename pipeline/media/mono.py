"""Reading for the evaluation stages, by workers that load no torch.

Sounds and pictures as every network takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soxr

from model.metrics.onsets import detect_onsets
from pipeline.media import Framing, decode_audio, probe, read_frames

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Channel = Literal["mean", "left"]

SILENT_DB = -60.0  # a sound whose loudest sample is under this is silent
CLIPPED = 0.999
ONSET_RATE = 16000


def read_sound(path: Path, sample_rate: int, seconds: float, channel: Channel = "mean") -> Samples:
    """The first `seconds` of a file's sound, mono at `sample_rate`, without DC: the benchmark's own order.

    Mean of the channels (or the left one), minus the mean of the whole file, resampled, cut. Raises
    MediaError.
    """
    sound = decode_audio(path)
    mono = sound.samples.mean(0, dtype=np.float32) if channel == "mean" else sound.samples[0]
    mono = mono - mono.mean(dtype=np.float64).astype(np.float32) if len(mono) else mono
    if sound.sample_rate != sample_rate:
        mono = soxr.resample(mono, sound.sample_rate, sample_rate)
    return np.ascontiguousarray(mono[: round(seconds * sample_rate)], np.float32)


def check_sound(path: Path, seconds: float) -> dict[str, Any]:
    """What is to be known of a sound before it is compared.

    Raises MediaError for one that cannot be.
    """
    sound = decode_audio(path)
    mono = read_sound(path, ONSET_RATE, seconds)
    peak = float(np.abs(sound.samples).max(initial=0.0))
    return {
        "sound_seconds": sound.samples.shape[1] / sound.sample_rate,
        "sound_rate": sound.sample_rate,
        "sound_channels": len(sound.samples),
        "sound_peak_db": float(20 * np.log10(max(peak, 1e-10))),
        "sound_clipped_share": float((np.abs(sound.samples) >= CLIPPED).mean())
        if sound.samples.size
        else 0.0,
        "sound_onsets": [round(t, 4) for t in detect_onsets(mono, ONSET_RATE).tolist()],
    }


def read_pictures(path: Path, times: npt.NDArray[np.float64], framing: Framing) -> Frames:
    """The pictures of a video at these times (s); raises MediaError."""
    return read_frames(path, times, framing)


def video_seconds(path: Path) -> float:
    """How long a video's picture is, s; 0 where it does not say. Raises MediaError."""
    return float(probe(path).duration or 0.0)
