"""Loudness: how much of a clip can be heard. Only what is silent throughout is rejected."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.media import MAX_SECONDS, decode_audio
from pipeline.media.hearing import hear
from pipeline.stages.reading import read_each, reading
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from warehouse import field

FLOOR_DBFS = -120.0  # what digital silence is given as


@dataclass(frozen=True)
class SilenceSettings:
    """A window is silent below `threshold_dbfs`; a clip is, with `reject_share` of its windows."""

    threshold_dbfs: float = -60.0
    window_seconds: float = 0.01
    reject_share: float = 0.98
    max_seconds: float = MAX_SECONDS


@dataclass(frozen=True)
class Loudness:
    """Facts of a sound; levels are relative to full scale, and -120 for digital silence."""

    silent_share: float
    longest_gap: float
    peak_dbfs: float
    rms_dbfs: float


def measure(
    samples: NDArray[np.float32], sample_rate: int, settings: SilenceSettings | None = None
) -> Loudness:
    """Loudness of mono samples [n], by the RMS of windows that do not overlap; none are silence."""
    settings = settings or SilenceSettings()
    if samples.size == 0:
        return Loudness(1.0, 0.0, FLOOR_DBFS, FLOOR_DBFS)
    window = min(max(1, round(settings.window_seconds * sample_rate)), samples.size)
    windows = samples[: samples.size // window * window].reshape(-1, window)
    power = np.vecdot(windows, windows).astype(np.float64) / window
    silent = power < 10 ** (settings.threshold_dbfs / 10)
    return Loudness(
        silent_share=float(silent.mean()),
        longest_gap=_longest_run(silent) * window / sample_rate,
        peak_dbfs=_dbfs(float(max(samples.max(), -samples.min()))),
        rms_dbfs=_dbfs(math.sqrt(float(power.mean()))),
    )


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return int((ends - starts).max(initial=0))


def _dbfs(amplitude: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


def measure_file(path: Path, settings: SilenceSettings) -> dict[str, float]:
    """Facts of a file's sound, as long as its picture; raises MediaError if it is broken."""
    sound = decode_audio(path, None, settings.max_seconds)
    levels = measure(sound.samples.mean(0, dtype=np.float32), sound.sample_rate, settings)
    return asdict(levels) | asdict(hear(sound.samples, sound.sample_rate))


_F64 = pa.float64()


class Silence(Stage):
    """Decodes the sound once, over the whole length of the picture, and measures it."""

    name = "silence"
    version = 2
    upstream = ("probe",)
    batch_size = 4096
    settings = SilenceSettings()
    schema = pa.schema(
        [
            field("silent_share", _F64, "share of 10 ms windows below the threshold, 0..1"),
            field("longest_gap", _F64, "longest run of silent windows, s"),
            field("peak_dbfs", _F64, "largest sample of the mono mean, dB of full scale"),
            field("rms_dbfs", _F64, "root mean square of the mono mean, dB of full scale"),
            field("loudness_lufs", _F64, "loudness by ITU-R BS.1770-4, LUFS; -120 for silence"),
            field("clipped_share", _F64, "share of samples within 0.13 dB of full scale, 0..1"),
            field("dc_offset", _F64, "mean of all samples, of full scale"),
            field("bandwidth_hz", _F64, "highest frequency within 65 dB of the strongest band, Hz"),
            field(
                "snr_db", _F64, "mean power over the quietest tenth of 100 ms blocks, dB, -20..100"
            ),
        ]
    )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Failed if the sound cannot be decoded whole, rejected if all of it is silent."""

        def judge(facts: dict[str, float]) -> Outcome:
            if facts["silent_share"] >= self.settings.reject_share:
                return Rejected("silent throughout", facts)
            return Passed(facts)

        return read_each(clips, reading(measure_file, self.settings), judge)
