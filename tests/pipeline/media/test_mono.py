"""Sounds of any form and pictures of any size, as the evaluation networks are given them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline.evaluation.metrics import best_offset
from pipeline.media import Framing, MediaError, Scaling, read_frames, write_wav
from pipeline.media.mono import check_sound, read_sound
from pipeline.procedural import sample_clip, write_clip


def write_float_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """32-bit float samples [n] or [n, channels], NaN and all, which no writer of ours makes."""
    data = np.asarray(samples, "<f4")
    channels = 1 if data.ndim == 1 else data.shape[1]
    body = data.tobytes()
    parts = (3, channels, rate, rate * channels * 4, channels * 4, 32)
    sizes = (2, 2, 4, 4, 2, 2)
    form = b"".join(
        value.to_bytes(size, "little") for value, size in zip(parts, sizes, strict=True)
    )
    head = (
        b"WAVEfmt " + (16).to_bytes(4, "little") + form + b"data" + len(body).to_bytes(4, "little")
    )
    path.write_bytes(b"RIFF" + (len(head) + len(body)).to_bytes(4, "little") + head + body)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_sounds_of_any_rate_and_layout_are_heard_alike(
    tmp_path: Path, rate: int, channels: int
) -> None:
    t = np.arange(rate * 2) / rate
    tone = 0.2 * np.sin(2 * np.pi * 440 * t)
    loud = (
        np.stack([tone * (2 if c == 0 else 1) for c in range(channels)], 1) + 0.1
    )  # DC, and a louder left channel
    write_float_wav(tmp_path / "a.wav", loud, rate)
    heard = read_sound(tmp_path / "a.wav", 16000, seconds=1.5)
    assert heard.shape == (24000,)
    share = (channels + 1) / channels
    expected = 0.2 * share * np.sin(2 * np.pi * 440 * np.arange(24000) / 16000)
    np.testing.assert_allclose(heard[200:-200], expected[200:-200], atol=0.01)
    left = read_sound(tmp_path / "a.wav", 16000, 1.5, "left")
    np.testing.assert_allclose(left[200:-200], expected[200:-200] * 2 / share, atol=0.01)
    facts = check_sound(tmp_path / "a.wav", 1.5)
    assert (facts["sound_channels"], facts["sound_rate"]) == (channels, rate)
    assert facts["sound_seconds"] == pytest.approx(2.0, abs=0.01)


def test_a_clipped_sound_is_noted_and_an_empty_one_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "clipped.wav", np.sign(np.sin(np.arange(16000))).astype(np.float32), 16000)
    assert check_sound(tmp_path / "clipped.wav", 4.0)["sound_clipped_share"] > 0.9
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    with pytest.raises(MediaError):
        check_sound(tmp_path / "empty.wav", 4.0)


@pytest.mark.parametrize("late", [-1.5, -0.3, 0.0, 0.7, 1.9])
def test_the_true_offset_is_where_most_onsets_agree(late: float) -> None:
    impacts = np.array([0.3, 0.9, 1.7, 2.2, 3.1])
    onsets = np.concatenate([impacts + late, [0.55, 2.05]])  # two that mean nothing
    assert best_offset(impacts, onsets) == pytest.approx(late, abs=0.03)


@pytest.mark.parametrize("side", [32, 224])
def test_pictures_are_scaled_as_the_benchmark_does(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.mp4"
    write_clip(sample_clip(3, 1.0), path)
    plain = torch.from_numpy(read_frames(path, [0.5], Framing(64))).permute(0, 3, 1, 2)
    theirs = (
        v2.functional.resize(plain, [side], v2.InterpolationMode.BICUBIC)
        .permute(0, 2, 3, 1)
        .numpy()
    )

    def apart(scaling: Scaling) -> float:
        ours = read_frames(path, [0.5], Framing(side, scaling=scaling))
        return float(
            np.abs((ours.astype(np.float64) - theirs).mean(-1)).mean()
        )  # brightness, of 255

    # not equal: files hold colour at half the size, which ours scales before it is made RGB, and
    # theirs after
    assert apart("bicubic") < 0.8
    assert apart("bicubic") < 0.85 * apart("bilinear")
