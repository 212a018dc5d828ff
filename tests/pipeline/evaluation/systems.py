"""Six videos and four systems' sounds for them: alike, late, damaged, and in unusual formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr

from pipeline.media import write_wav
from pipeline.procedural import SAMPLE_RATE, Corpus, render_audio, sample_clip, write_corpus
from tests.benchmarks.evaluation import shifted
from tests.pipeline.media.test_mono import write_float_wav

COUNT = 6
BROKEN = ("missing", "broken", "silent", "short", "nan")
UNUSUAL = ("8 kHz", "96 kHz", "5.1", "clipped", "mono", "stereo")


def unusual(kind: str, audio: np.ndarray) -> tuple[np.ndarray, int]:
    """A sound in an unusual form, or in a usual one.

    Samples [n] or [n, channels], and their rate.
    """
    if kind.endswith("kHz"):
        rate = int(kind.split(maxsplit=1)[0]) * 1000
        return soxr.resample(audio, SAMPLE_RATE, rate), rate
    if kind == "clipped":
        return np.clip(audio * 200, -1, 1), SAMPLE_RATE
    channels = {"5.1": 6, "stereo": 2, "mono": 1}[kind]
    return np.repeat(audio[:, None], channels, 1), SAMPLE_RATE


def write_systems(folder: Path) -> None:
    """Six videos with their own sound.

    Systems that repeat it, are late, or have all kinds of damage or of formats.
    """
    rows = write_corpus(folder / "videos", Corpus(COUNT, seed=78, bad=()))
    for name in ("same", "late", "damaged", "unusual"):
        (folder / name).mkdir()
    for i, row in enumerate(rows):
        audio = render_audio(sample_clip(row["truth"]["seed"]))
        stem = Path(row["file"]).stem
        write_wav(folder / "same" / f"{stem}.wav", audio, SAMPLE_RATE)
        write_wav(folder / "late" / f"{stem}.wav", shifted(audio, 1.2), SAMPLE_RATE)
        write_float_wav(folder / "unusual" / f"{stem}.wav", *unusual(UNUSUAL[i], audio))
        path = folder / "damaged" / f"{stem}.wav"
        kind = ("", *BROKEN)[i]
        if kind == "broken":
            path.write_bytes(b"RIFF is not enough")
        elif kind == "silent":
            write_wav(path, np.zeros_like(audio), SAMPLE_RATE)
        elif kind == "short":
            write_wav(path, audio[: SAMPLE_RATE // 10], SAMPLE_RATE)
        elif kind == "nan":
            write_float_wav(path, np.full(1000, np.nan), SAMPLE_RATE)
        elif kind == "":
            write_wav(path, audio, SAMPLE_RATE)
    write_wav(folder / "damaged" / "clip-99999.wav", np.ones(100, np.float32), SAMPLE_RATE)
