"""Cheap facts against sounds and pictures whose truth is known because they were made with it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from scipy import signal

from pipeline.media import write_wav
from pipeline.media.glancing import glance, judge, perceptual_hash
from pipeline.media.hearing import hear
from pipeline.scoring.loudness import SilenceSettings, measure_file
from pipeline.scoring.picture import Picture
from pipeline.stages.stage import Failed, Passed
from tests.pipeline.media.samples import Codecs, ffmpeg, write_sample

RATE = 48_000
KAISER: Any = ("kaiser", 9.0)  # SciPy's stubs know plain names only
TIMES = [i / 25 for i in range(100)]


def noise(seconds: float = 4.0, level: float = 0.1, channels: int = 1, seed: int = 0) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .normal(0, level, (channels, round(seconds * RATE)))
        .astype(np.float32)
    )


def by_ffmpeg(path: Path) -> float:
    """Integrated loudness as ffmpeg's ebur128 measures it."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-i",
        str(path),
        "-af",
        "ebur128",
        "-f",
        "null",
        "-",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return float(re.findall(r"I:\s+(-?[\d.]+) LUFS", said)[-1])


@pytest.mark.parametrize("kind", ["noise", "stereo", "tone", "low tone", "pauses", "quiet"])
def test_loudness_is_that_of_ffmpeg(tmp_path: Path, kind: str) -> None:
    time = np.arange(4 * RATE) / RATE
    sounds = {
        "noise": noise(),
        "stereo": noise(channels=2) * np.array([[1.0], [0.2]], np.float32),
        "tone": 0.3 * np.sin(2 * np.pi * 997 * time)[None],
        "low tone": 0.3 * np.sin(2 * np.pi * 60 * time)[None],
        "pauses": noise() * (time % 1 < 0.4),
        "quiet": noise(level=0.002),
    }
    sound = sounds[kind].astype(np.float32)
    write_wav(tmp_path / "a.wav", sound, RATE)
    assert hear(sound, RATE).loudness_lufs == pytest.approx(by_ffmpeg(tmp_path / "a.wav"), abs=0.2)


@pytest.mark.parametrize("edge", [1500, 3400, 7000, 11_000, 16_000])
def test_bandwidth_is_where_the_sound_was_cut_off(edge: int) -> None:
    taps = signal.firwin(2001, edge, fs=RATE, window=KAISER)
    cut = signal.fftconvolve(noise()[0], taps, "same")[None].astype(np.float32)
    assert hear(cut, RATE).bandwidth_hz == pytest.approx(edge, abs=200)
    assert hear(noise(), RATE).bandwidth_hz == RATE / 2


def test_a_pure_tone_has_the_bandwidth_of_its_pitch() -> None:
    tone = np.sin(2 * np.pi * 1003 * np.arange(2 * RATE) / RATE)[None].astype(np.float32)
    assert hear(0.5 * tone, RATE).bandwidth_hz == pytest.approx(1003, abs=150)


@pytest.mark.parametrize("db", [0, 10, 20, 40])
def test_noise_under_sounds_with_pauses(db: int) -> None:
    hiss = noise(8, 0.3 * 10 ** (-db / 20), seed=1)
    sounds = noise(8, 0.3) * np.sqrt(2) * (np.arange(8 * RATE) // (RATE // 2) % 2)
    assert hear((hiss + sounds).astype(np.float32), RATE).snr_db == pytest.approx(db, abs=1.5)


def test_clipping_and_dc() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[None].astype(np.float32)
    for gain in (1.5, 3.0):
        truth = float((np.abs(gain * tone) >= 1).mean())
        assert hear(np.clip(gain * tone, -1, 1), RATE).clipped_share == pytest.approx(
            truth, abs=0.03
        )
    assert hear(0.9 * tone, RATE).clipped_share == 0
    assert hear(0.5 * tone + 0.125, RATE).dc_offset == pytest.approx(0.125, abs=1e-4)


def test_digital_silence_and_nothing() -> None:
    for sound in (
        np.zeros((1, RATE), np.float32),
        np.zeros((2, 0), np.float32),
        np.zeros((1, 10), np.float32),
    ):
        found = hear(sound, RATE)
        assert (found.loudness_lufs, found.bandwidth_hz, found.clipped_share, found.dc_offset) == (
            -120,
            0,
            0,
            0,
        )


def test_facts_survive_a_codec(tmp_path: Path) -> None:
    taps = signal.firwin(2001, 8000, fs=RATE, window=KAISER)
    sound = signal.fftconvolve(noise()[0], taps, "same").astype(np.float32)
    write_sample(tmp_path / "a.mp4", TIMES, sound)
    found = measure_file(tmp_path / "a.mp4", SilenceSettings())
    assert found["bandwidth_hz"] == pytest.approx(8000, abs=1200)
    assert found["loudness_lufs"] == pytest.approx(hear(sound[None], RATE).loudness_lufs, abs=0.3)


def scenes(*parts: tuple[int, int]) -> np.ndarray:
    """Moving blocks [T, 32, 48, 3]: (frames, seed) of every scene."""
    shots: list[np.ndarray] = []
    for frames, seed in parts:
        base = np.kron(np.random.default_rng(seed).integers(0, 255, (8, 12)), np.ones((4, 4)))
        shots += [np.roll(base, i // 2, axis=1) for i in range(frames)]
    return np.repeat(np.stack(shots)[..., None], 3, -1).astype(np.uint8)


def test_cuts_are_counted_and_motion_is_not() -> None:
    assert judge(scenes((12, 1))).cuts == 0
    assert judge(scenes((8, 1), (8, 2), (8, 3))).cuts == 2
    assert judge(scenes(*[(4, seed) for seed in range(6)])).cuts == 5


def test_still_and_black_shares() -> None:
    still = np.repeat(scenes((1, 1)), 11, 0)
    assert judge(still).static_share == 1.0
    assert judge(np.concatenate([still, np.zeros_like(still)])).black_share == 0.5
    assert judge(np.concatenate([still, scenes((40, 1))])).static_share < 0.9


def test_the_hash_survives_another_codec_and_size(tmp_path: Path) -> None:
    """Few bits change when a clip is encoded again; about half of them do between two clips."""
    for name, start in (("a", 0), ("b", 3)):
        source = (
            f"testsrc2=d=2:s=320x240:r=25,hue=h={120 * start}"
            if name == "a"
            else "mandelbrot=s=320x240:r=25"
        )
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            source,
            "-t",
            "2",
            "-c:v",
            "libx264",
            "-pix_fmt",
            "yuv420p",
            tmp_path / f"{name}.mp4",
        )
    ffmpeg(
        "-i",
        tmp_path / "a.mp4",
        "-vf",
        "scale=160:120",
        "-c:v",
        "libvpx",
        "-b:v",
        "200k",
        tmp_path / "c.webm",
    )
    first, other, again = (
        glance(tmp_path / name, 2).phash for name in ("a.mp4", "b.mp4", "c.webm")
    )
    assert (first ^ again).bit_count() <= 6
    assert (first ^ other).bit_count() >= 16


def test_hashes_of_unlike_pictures_differ() -> None:
    pictures = [
        np.kron(np.random.default_rng(i).random((8, 8)), np.ones((4, 4))).astype(np.float32)
        for i in range(12)
    ]
    hashes = [perceptual_hash(picture) for picture in pictures]
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) >= 10
    assert perceptual_hash(pictures[0] * 0.5 + 3) == hashes[0]  # darker is the same picture


def test_the_stage(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mp4", TIMES, None, Codecs(audio=None))
    clips = [{"path": str(tmp_path / name), "duration": 4.0} for name in ("a.mp4", "gone.mp4")]
    good, gone = Picture().process(clips)
    assert isinstance(good, Passed)
    assert set(good.columns) == set(Picture.schema.names)
    assert good.columns["black_share"] == 0
    assert isinstance(gone, Failed)
