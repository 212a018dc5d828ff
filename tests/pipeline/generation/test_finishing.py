"""Loudness of sounds whose loudness is known, and peaks that stay below the limit."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

from pipeline.generation.finishing import measure, mixed, resampled, to_loudness

RATE = 48_000


def sine(level: float, seconds: float = 4.0, channels: int = 2) -> NDArray[np.float32]:
    """A 1 kHz tone whose peak is at so many dBFS, on every channel."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 10 ** (level / 20) * np.sin(2 * np.pi * 1000 * time)
    return np.repeat(wave[None].astype(np.float32), channels, 0)


def true_peak(sound: NDArray[np.float32]) -> float:
    return float(20 * np.log10(np.abs(resample_poly(sound, 8, 1, axis=1)).max()))


@pytest.mark.parametrize("level", [-23.0, -33.0, -40.0])
def test_a_tone_of_ebu_tech_3341_is_as_loud_as_it_says(level: float) -> None:
    """Test cases 1 to 3: a stereo tone of 1 kHz at -23 dBFS is of -23 LUFS; 0.1 LU are allowed."""
    assert measure(sine(level), RATE).integrated == pytest.approx(level, abs=0.1)
    made = to_loudness(sine(level), RATE, -23.0)
    assert np.abs(made).max() == pytest.approx(10 ** (-23 / 20), rel=0.012)
    assert measure(sine(-23.0, channels=1), RATE).integrated == pytest.approx(-26.0, abs=0.1)


def test_peaks_are_limited_between_samples_too() -> None:
    """Rare clicks over a soft noise are loud peaks long before the whole is loud."""
    random = np.random.default_rng(0)
    sound = (0.003 * random.standard_normal((1, 3 * RATE + 7))).astype(np.float32)
    sound[:, RATE // 2 :: RATE] = 0.5
    made = to_loudness(sound, RATE, -23.0)
    assert made.shape == sound.shape
    assert true_peak(sound * 10 ** (20 / 20)) > 0
    assert -1.6 < true_peak(made) <= -0.9
    assert np.argmax(np.abs(made[0, :RATE])) == pytest.approx(RATE // 2, abs=RATE // 1000)


def test_what_cannot_be_measured_is_left() -> None:
    for sound in (np.zeros((1, RATE), np.float32), sine(-20, 0.1)):
        assert to_loudness(sound, RATE, -23.0) is sound


def test_a_sound_over_another_is_at_its_level() -> None:
    new, old = sine(-20, 1.0), sine(-40, 0.5, channels=1)
    together = mixed(new, old, -6.0)
    np.testing.assert_allclose(together[:, RATE // 2 :], new[:, RATE // 2 :] * 0.5012, rtol=1e-3)
    first = slice(0, RATE // 2)
    np.testing.assert_allclose(together[:, first] - new[:, first] * 0.5012, old[[0, 0]], atol=1e-5)
    assert np.array_equal(new, sine(-20, 1.0))


def test_another_rate_is_the_same_sound() -> None:
    tone = resampled(sine(-6, 1.0), RATE, 16_000)
    time = np.arange(16_000) / 16_000
    expected = 10 ** (-6 / 20) * np.sin(2 * np.pi * 1000 * time)
    np.testing.assert_allclose(tone[0, 200:-200], expected[200:-200], atol=1e-3)
    assert resampled(sine(-6, 1.00003), RATE, 44_100).shape[1] == 44_101


def test_a_missing_ffmpeg_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from warehouse.errors import FoleyError

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "gone"))
    with pytest.raises(FoleyError, match=r"ffmpeg: .*gone"):
        measure(sine(-20, 0.5), RATE)
