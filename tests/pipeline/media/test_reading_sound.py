"""The sound of a file: how long it is, its channels, its scale, and what was lost of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.media import decode_audio, probe, read_audio
from tests.pipeline.media.samples import Codecs, click_times, clicks, ffmpeg, steady, write_sample

RATE = 16_000


def test_sound_is_as_long_as_the_picture(tmp_path: Path) -> None:
    times = steady(30, 2)
    tone = np.full(96_000, 0.25, np.float32)
    for name, seconds in (("short", 1.0), ("long", 3.0)):
        write_sample(tmp_path / f"{name}.mp4", times, np.resize(tone, round(48_000 * seconds)))
    picture = probe(tmp_path / "short.mp4").duration
    assert picture == pytest.approx(2.0, abs=0.001)
    short, long = (read_audio(tmp_path / f"{name}.mp4", RATE) for name in ("short", "long"))
    assert short.shape == long.shape == (2 * RATE,)
    assert np.abs(short[round(1.1 * RATE) :]).max() == 0
    assert np.abs(long[-RATE // 2 :]).min() > 0.2
    assert read_audio(tmp_path / "long.mp4", RATE, max_seconds=0.7).shape == (round(0.7 * RATE),)
    assert read_audio(tmp_path / "long.mp4", RATE, max_seconds=12, exact=True).shape == (12 * RATE,)


@pytest.mark.parametrize(
    ("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6), ("7.1", 8)]
)
def test_mono_is_the_plain_mean_and_stereo_keeps_the_sides(
    tmp_path: Path, layout: str, channels: int
) -> None:
    tones = (
        0.1
        * np.arange(1, channels + 1, dtype=np.float32)[:, None]
        * np.ones((1, 48_000), np.float32)
    )
    codecs = Codecs(audio="pcm_f32le", layout=layout)
    write_sample(tmp_path / "a.mov", steady(30, 1), tones, codecs)
    assert decode_audio(tmp_path / "a.mov").samples.shape == (channels, 48_000)
    mono = read_audio(tmp_path / "a.mov", 48_000)
    np.testing.assert_allclose(mono, tones.mean(0), atol=1e-6)
    stereo = read_audio(tmp_path / "a.mov", 48_000, "stereo")
    # in 5.1 and 7.1: left, right, centre, LFE, back (left, right), side (left, right)
    right = [1, 3, 5, 7][: channels // 2] if channels > 2 else [channels - 1]
    middle = [2, 3] if channels > 2 else []
    left_only = (
        [c for c in range(channels) if c not in right or c in middle] if channels > 1 else [0]
    )
    right_only = [c for c in range(channels) if c in right or c in middle] if channels > 1 else [0]
    np.testing.assert_allclose(stereo[0], tones[left_only].mean(0), atol=1e-6)
    np.testing.assert_allclose(stereo[1], tones[right_only].mean(0), atol=1e-6)


def test_eight_planes_are_read_and_no_ninth(tmp_path: Path) -> None:
    """aac decodes to a plane a channel: 7.1 has as many as a frame has room for."""
    tones = (
        0.05
        * np.arange(1, 9, dtype=np.float32)[:, None]
        * np.sin(np.arange(48_000) / 20).astype(np.float32)
    )
    write_sample(tmp_path / "a.mp4", steady(30, 1), tones, Codecs(layout="7.1"))
    samples = decode_audio(tmp_path / "a.mp4").samples
    assert samples.shape == (8, 48_000)
    loudness = np.sqrt(np.square(samples[:, 4_000:-4_000]).mean(1))
    middle = [0, 1, 2, 4, 5, 6, 7]  # the codec cuts the LFE's band
    np.testing.assert_allclose(
        loudness[middle], 0.05 * np.arange(1, 9)[middle] / np.sqrt(2), rtol=0.1
    )


@pytest.mark.parametrize(
    "codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"]
)
def test_full_scale_is_one_in_every_sample_format(tmp_path: Path, codec: str) -> None:
    wave = 0.5 * np.sin(np.arange(48_000) / 20).astype(np.float32)
    write_sample(tmp_path / "a.mkv", steady(30, 1), wave, Codecs(audio=codec))
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.mkv", 48_000), wave, atol=0.01 if codec == "pcm_u8" else 1e-4
    )


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    """Packets lost in the middle must not pull the rest of the sound forward."""
    write_sample(
        tmp_path / "whole.mkv", steady(30), clicks(3, [0.5, 2.5]), Codecs(audio="pcm_s16le")
    )
    drop = "noise=drop='gt(pts,1000)*lt(pts,1800)'"
    ffmpeg("-i", tmp_path / "whole.mkv", "-c", "copy", "-bsf:a", drop, tmp_path / "gap.mkv")
    assert click_times(read_audio(tmp_path / "gap.mkv", RATE), RATE) == pytest.approx(
        [0.5, 2.5], abs=0.003
    )
