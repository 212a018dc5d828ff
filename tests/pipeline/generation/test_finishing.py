"""Sounds over one another and at another rate, and what ffmpeg cannot do."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.generation.finishing import measure, mixed, resampled

RATE = 48_000


def sine(level: float, seconds: float = 4.0, channels: int = 2) -> NDArray[np.float32]:
    """A 1 kHz tone whose peak is at so many dBFS, on every channel."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 10 ** (level / 20) * np.sin(2 * np.pi * 1000 * time)
    return np.repeat(wave[None].astype(np.float32), channels, 0)


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
