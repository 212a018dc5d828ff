"""Which frame is on screen, and where the sound lies beside it.

Every frame rate, container and trick of the clock.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.media import Framing, MediaError, probe, read_audio, read_frames
from pipeline.media.clock import duration_of
from tests.pipeline.media.samples import (
    SIDE,
    WIDTH,
    Codecs,
    click_times,
    clicks,
    ffmpeg,
    read_barcode,
    shown,
    steady,
    write_sample,
)

WHOLE = Framing(SIDE, SIDE)
RATE = 16_000
GRID = list(np.arange(40) / 16)
FRAME = Fraction(1, 30)
MILLISECOND = 6e-4  # half a tick, where times are kept in milliseconds


@pytest.mark.parametrize("tag", ["00:00:01.000000000", None])
def test_a_stream_that_ends_before_it_begins_has_no_duration(tag: str | None) -> None:
    """As headers of damaged files have it: that of the stream, or that of the file."""
    stream: Any = SimpleNamespace(
        metadata={"DURATION": tag} if tag else {}, start_time=2000, time_base=Fraction(1, 1000)
    )
    form = SimpleNamespace(name="flv")
    container: Any = SimpleNamespace(format=form, start_time=0, duration=1_000_000)
    assert duration_of(container, stream) == 0.0


def numbers(path: Path, times: Sequence[float]) -> list[int]:
    return [read_barcode(picture) for picture in read_frames(path, times, WHOLE)]


def heard(path: Path) -> list[float]:
    return click_times(read_audio(path, RATE), RATE)


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
