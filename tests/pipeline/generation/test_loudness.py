"""How loud sounds become, heard by BS.1770 as its tables have it and by ffmpeg's own meter."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from scipy.signal import lfilter, resample_poly

from pipeline.generation.finishing import measure, to_loudness
from pipeline.generation.generator import SoundGenerator
from pipeline.media import write_wav
from tests.pipeline.generation.test_finishing import RATE, sine

#: ITU-R BS.1770-4, annex 1, tables 1 and 2: the filters at 48 kHz.
SHELF = (
    [1.53512485958697, -2.69169618940638, 1.19839281085285],
    [1, -1.69065929318241, 0.73248077421585],
)
HIGH_PASS = [1, -2, 1], [1, -1.99004745483398, 0.99007225036621]


def loudness(sound: NDArray[np.float32], rate: int) -> float:
    """Integrated loudness of samples [channels, n] by the formulas of annex 1, in LUFS."""
    at_48 = soxr.resample(sound.T.astype(float), rate, 48_000).T
    weighted = lfilter(*HIGH_PASS, lfilter(*SHELF, at_48))
    blocks = np.lib.stride_tricks.sliding_window_view(weighted, 19_200, axis=1)[:, ::4800]
    power = (blocks**2).mean(-1).sum(0)
    loud = power[level(power) > -70]
    return float(level(loud[level(loud) > level(loud.mean()) - 10].mean()))


def level(power: NDArray[np.float64]) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(power + 1e-30)


def true_peak(sound: NDArray[np.float32]) -> float:
    return float(20 * np.log10(np.abs(resample_poly(sound, 8, 1, axis=1)).max()))


def metered(path: Path) -> tuple[float, float]:
    """Loudness in LUFS and true peak in dBTP, as ffmpeg's ebur128 sums them up."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-af", "ebur128=peak=true"]
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True, check=True)
    loud, peak = re.findall(r"(?:I|Peak): +(\S+) (?:LUFS|dBFS)", done.stderr)[-2:]
    return float(loud), float(peak)


@pytest.mark.parametrize("seconds", [0.8, 4.0])
def test_sounds_are_as_loud_as_asked_or_a_line_says_how_loud(
    generator: SoundGenerator, tmp_path: Path, seconds: float
) -> None:
    """A ball on wood, whose peaks are to be limited a little for -23, and too much for -14."""
    ball = partial(
        generator.generate, None, "a ball bounces on wood", seed=1, steps=15, seconds=seconds
    )
    sound = ball(sample_rate=RATE).audio
    for target in (-30.0, -23.0, -14.0):
        made, notes, _ = to_loudness(sound, RATE, target)
        assert bool(notes) == (target == -14.0)
        expected = said(notes[0]) if notes else target
        assert loudness(made, RATE) == pytest.approx(expected, abs=0.1)
        assert true_peak(made) <= -0.97
        write_wav(tmp_path / "o.wav", made, RATE, 24)
        loud, peak = metered(tmp_path / "o.wav")
        assert loud == pytest.approx(expected, abs=0.11)  # both are rounded to 0.1
        assert peak <= -1.0
    assert ball(loudness=-14.0).notes[-1].startswith("its loudness is -2")


def said(note: str) -> float:
    """The loudness that a line tells."""
    return float(note.removeprefix("its loudness is ").split()[0])


def test_quiet_parts_that_no_longer_count_are_no_surprise() -> None:
    """A long hum of -69 LUFS lets what is of -45 count, beside -30; 2 dB softer, neither does."""
    levels = np.repeat([-69.0, -30.0, -45.0], [20 * RATE, RATE, RATE])
    time = np.arange(len(levels)) / RATE
    sound = (10 ** (levels / 20) * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)[None]
    sound = np.repeat(sound, 2, 0)
    softer = sound * np.float32(10 ** (-2 / 20))
    assert loudness(softer, RATE) == pytest.approx(loudness(sound, RATE), abs=0.3)
    made, notes, _ = to_loudness(sound, RATE, -35.0)
    assert loudness(made, RATE) == pytest.approx(-35, abs=0.1)
    assert not notes


@pytest.mark.parametrize("level", [-23.0, -33.0, -40.0])
def test_a_tone_of_ebu_tech_3341_is_as_loud_as_it_says(level: float) -> None:
    """Test cases 1 to 3: a stereo tone of 1 kHz at -23 dBFS is of -23 LUFS; 0.1 LU are allowed."""
    assert measure(sine(level), RATE).integrated == pytest.approx(level, abs=0.1)
    made, *_ = to_loudness(sine(level), RATE, -23.0)
    assert np.abs(made).max() == pytest.approx(10 ** (-23 / 20), rel=0.012)
    assert measure(sine(-23.0, channels=1), RATE).integrated == pytest.approx(-26.0, abs=0.1)
    high = np.sin(np.pi * 0.7 * np.arange(32_000))[None].astype(np.float32)  # 2.8 kHz at 8 kHz
    assert measure(high, 8000).integrated == pytest.approx(loudness(high, 8000), abs=0.03)


def test_peaks_are_limited_between_samples_too() -> None:
    """Rare clicks over a soft noise are loud peaks long before the whole is loud."""
    random = np.random.default_rng(0)
    sound = (0.003 * random.standard_normal((1, 3 * RATE + 7))).astype(np.float32)
    sound[:, RATE // 2 :: RATE] = 0.5
    made, *_ = to_loudness(sound, RATE, -23.0)
    assert made.shape == sound.shape
    assert true_peak(sound * 10 ** (20 / 20)) > 0
    assert -1.6 < true_peak(made) <= -0.97
    assert np.argmax(np.abs(made[0, :RATE])) == pytest.approx(RATE // 2, abs=RATE // 1000)
    noise = (0.1 * random.standard_normal((1, 16_000))).astype(np.float32)
    made, *_ = to_loudness(noise, 8000, -10.0)  # on the way back to 8 kHz peaks grow
    assert true_peak(made) <= -0.97


def test_what_cannot_be_measured_is_left() -> None:
    for sound in (np.zeros((1, RATE), np.float32), sine(-20, 0.1)):
        made, notes, _ = to_loudness(sound, RATE, -23.0)
        assert made is sound
        assert notes == ("too short or too quiet for its loudness to be measured: left as it is",)
