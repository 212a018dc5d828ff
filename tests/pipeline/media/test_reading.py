"""Which frame is on screen, and where the sound lies beside it.

Every frame rate, container and trick of the clock.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.media import Framing, MediaError, decode_audio, probe, read_audio, read_frames
from tests.pipeline.media.samples import (
    SIDE,
    WIDTH,
    Codecs,
    click_times,
    clicks,
    ffmpeg,
    read_barcode,
    shown,
    write_sample,
)

WHOLE = Framing(SIDE, SIDE)
RATE = 16_000
GRID = list(np.arange(40) / 16)
FRAME = Fraction(1, 30)
MILLISECOND = 6e-4  # half a tick, where times are kept in milliseconds


def numbers(path: Path, times: Sequence[float]) -> list[int]:
    return [read_barcode(picture) for picture in read_frames(path, times, WHOLE)]


def heard(path: Path) -> list[float]:
    return click_times(read_audio(path, RATE), RATE)


def steady(fps: float, seconds: float = 3.0, start: float = 0.0) -> list[float]:
    return [start + i / fps for i in range(round(fps * seconds))]


@pytest.mark.parametrize(
    "fps", [1, 5, 12, 15, 24 / 1.001, 24, 25, 30 / 1.001, 30, 48, 50, 60 / 1.001, 60, 90, 120, 240]
)
def test_the_frame_on_screen_at_every_rate(tmp_path: Path, fps: float) -> None:
    times = steady(fps)
    write_sample(tmp_path / "a.mp4", times, clicks(3, [0.5, 1.25]))
    assert numbers(tmp_path / "a.mp4", GRID) == shown(times, GRID, 2e-5)
    assert heard(tmp_path / "a.mp4") == pytest.approx([0.5, 1.25], abs=0.003)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, seed: int, suffix: str) -> None:
    rng = np.random.default_rng(seed)
    times = [0.0, *np.cumsum(rng.choice([0.011, 0.033, 0.05, 0.31], 40))]
    path = tmp_path / f"a.{suffix}"
    write_sample(path, times, clicks(times[-1], [1.0]))
    # not within a rounding of the moment of change, but for the changes themselves
    asked = [
        t
        for t in np.sort(rng.uniform(0, times[-1], 50))
        if np.abs(np.asarray(times) - t).min() > 0.001
    ]
    assert numbers(path, [*times, *asked]) == shown(times, [*times, *asked], MILLISECOND)
    assert heard(path) == pytest.approx([1.0], abs=0.003)


@dataclass(frozen=True)
class Kind:
    suffix: str
    codecs: Codecs = field(default_factory=Codecs)


KINDS = [
    Kind("mp4"),
    Kind("mkv"),
    Kind("mov", Codecs(audio="pcm_s16le")),
    Kind("webm", Codecs("libvpx-vp9", "libopus")),
    Kind("ts"),
    Kind("flv"),
    Kind("wmv", Codecs("wmv2", "wmav2", tick=FRAME)),
    Kind("mpg", Codecs("mpeg2video", "mp2", tick=FRAME, b_frames=2)),
    Kind("avi", Codecs("mpeg4", "pcm_s16le", tick=FRAME, b_frames=2)),
    Kind("avi", Codecs("libx264", "pcm_s16le", tick=FRAME)),
]


@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.suffix}-{kind.codecs.video}")
def test_a_late_picture_keeps_its_sound(tmp_path: Path, kind: Kind, start: float) -> None:
    """Sound that begins with frame 30 is heard when frame 30 is shown.

    Also if the picture starts after the sound.
    """
    path = tmp_path / f"a.{kind.suffix}"
    times = steady(30, 2.5, start)
    write_sample(path, times, clicks(3.0, [times[30]]), kind.codecs)
    asked = [t - times[0] for t in times[::7]]
    assert numbers(path, asked) == shown(times, asked, MILLISECOND)
    (click,) = heard(path)
    # MPEG-4 in AVI: the writer itself puts pictures one frame late
    assert click == pytest.approx(times[30] - times[0], abs=0.04 if kind.suffix == "avi" else 0.003)


@pytest.mark.parametrize("cut", [0.4, 0.75, 1.1])
def test_an_edit_list_hides_what_was_cut(tmp_path: Path, cut: float) -> None:
    times = steady(30)
    write_sample(tmp_path / "whole.mp4", times, clicks(3, [2.0]))
    ffmpeg("-ss", str(cut), "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    first = int(
        np.ceil(cut * 30 - 1e-6)
    )  # earlier ones are in the file, for decoding, and are not shown
    asked = list(np.arange(20) / 16)
    expected = [first + number for number in shown(times[first:], asked, 2e-3)]
    assert numbers(tmp_path / "cut.mp4", asked) == expected
    (click,) = heard(tmp_path / "cut.mp4")
    assert click == pytest.approx(2.0 - cut, abs=1 / 30)
    assert read_barcode(
        read_frames(tmp_path / "cut.mp4", [click + 0.02], WHOLE)[0]
    ) == pytest.approx(60, abs=1)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("seed", range(2))
def test_all_tricks_at_once(tmp_path: Path, seed: int, turn: int) -> None:
    """A late start, odd times with pictures out of order, an edit list, and a turned picture."""
    rng = np.random.default_rng(seed)
    times = list(0.7 + np.cumsum(rng.choice([0.011, 0.033, 0.05, 0.21], 80)))
    write_sample(tmp_path / "a.mp4", times, clicks(times[-1], [2.0]), Codecs(gop=30, b_frames=3))
    cut = times[25] - 0.002
    ffmpeg("-ss", str(cut), "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "cut.mp4")
    ffmpeg(
        "-display_rotation",
        str(turn),
        "-i",
        tmp_path / "cut.mp4",
        "-c",
        "copy",
        tmp_path / "turned.mp4",
    )
    left = times[25:]
    asked = [
        t
        for t in np.sort(rng.uniform(0, left[-1] - left[0], 50))
        if np.abs(np.array(left) - left[0] - t).min() > 2e-3
    ]
    pictures = np.rot90(read_frames(tmp_path / "turned.mp4", asked, WHOLE), -turn // 90, (1, 2))
    assert [read_barcode(picture) for picture in pictures] == [
        25 + n for n in shown(left, asked, MILLISECOND)
    ]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotation_is_as_a_player_shows_it(tmp_path: Path, turn: int) -> None:
    times = steady(15, 1)
    write_sample(tmp_path / "plain.mp4", times, None)
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", str(turn), "-i", tmp_path / "plain.mp4", "-c", "copy", path)
    assert probe(path).rotation == turn
    ours = read_frames(path, times, Framing(SIDE))
    assert ours.shape == ((15, SIDE, WIDTH, 3) if turn % 180 == 0 else (15, WIDTH, SIDE, 3))
    players = _players_picture(path, ours.shape)
    assert np.abs(ours.astype(np.int16) - players).mean() < 3
    upright = np.rot90(read_frames(path, times, WHOLE), -turn // 90, (1, 2))
    assert [read_barcode(picture) for picture in upright] == list(range(15))


def _players_picture(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
    ]
    done = subprocess.run(
        [*command, "-fps_mode", "passthrough", "-"], check=True, capture_output=True
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(shape)


def test_times_may_come_in_any_order_and_lie_outside(tmp_path: Path) -> None:
    times = steady(10, 2)
    write_sample(tmp_path / "a.mp4", times, None)
    assert numbers(tmp_path / "a.mp4", [1.5, -3.0, 0.25, 0.25, 99.0, 1.5]) == [15, 0, 2, 2, 19, 15]
    with pytest.raises(ValueError, match="no times"):
        read_frames(tmp_path / "a.mp4", [], WHOLE)


def test_framing_scales_the_short_side_and_crops_the_centre(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mp4", steady(10, 1), None)
    whole = read_frames(tmp_path / "a.mp4", [0.3], Framing(2 * SIDE))
    assert whole.shape == (1, 2 * SIDE, 2 * WIDTH, 3)
    cropped = read_frames(tmp_path / "a.mp4", [0.3], Framing(2 * SIDE, SIDE))
    assert cropped.shape == (1, SIDE, SIDE, 3)
    centre = whole[:, SIDE // 2 : -SIDE // 2, WIDTH - SIDE // 2 : WIDTH + SIDE // 2]
    assert np.abs(cropped.astype(np.int16) - centre).mean() < 4
    with pytest.raises(ValueError, match="a crop of 65"):
        Framing(64, 65)


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
    assert heard(tmp_path / "gap.mkv") == pytest.approx([0.5, 2.5], abs=0.003)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_sample(tmp_path / "silent.mp4", steady(10, 1), None)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "tone.m4a")
    with pytest.raises(MediaError, match=r"silent.mp4: no audio stream"):
        read_audio(tmp_path / "silent.mp4", RATE)
    with pytest.raises(MediaError, match=r"tone.m4a: no video stream"):
        read_frames(tmp_path / "tone.m4a", [0.0], WHOLE)
    assert abs(len(read_audio(tmp_path / "tone.m4a", RATE)) - RATE) < RATE / 10


def test_pictures_far_apart_cost_no_memory(tmp_path: Path) -> None:
    """Frames 4 s apart over 20 minutes: only those asked for are made."""
    times = [4.0 * i for i in range(300)]
    write_sample(tmp_path / "a.mp4", times, None)
    assert numbers(tmp_path / "a.mp4", [0.0, 3.9, 4.0, 600.0, 1199.0]) == [0, 0, 1, 150, 299]
