"""A film of several videos: each picture and sound at its place, and the list of its cuts."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from foley.cli.main import cli
from pipeline.generation.joining import RATE, join
from pipeline.media import MediaError, decode_audio, timecode_of
from tests.pipeline.media.samples import clicks, ffmpeg, read_barcode, write_sample
from warehouse.errors import FoleyError


@pytest.fixture
def shots(tmp_path: Path) -> list[Path]:
    """12.5 pictures a second for 1.6 s; the same at double size, from 5 s on; one without sound."""
    one, two, three = (tmp_path / f"{name}.mp4" for name in ("one", "two", "three"))
    write_sample(one, [i / 12.5 for i in range(20)], clicks(1.6, [0.4, 1.5]))
    write_sample(tmp_path / "two.plain.mp4", [i / 25 for i in range(30)], clicks(1.2, [0.3]))
    ffmpeg("-itsoffset", "5", "-i", tmp_path / "two.plain.mp4", "-vf", "scale=192:128",
           "-c:a", "copy", "-c:v", "libx265", two.with_suffix(".mkv"))  # fmt: skip
    write_sample(three, [i / 12.5 for i in range(10)], None)
    return [one, two.with_suffix(".mkv"), three]


def seen(film: Path) -> list[int]:
    """The numbers in its pictures."""
    with av.open(str(film)) as container:
        pictures = [
            f.to_ndarray(format="rgb24").astype(np.uint8) for f in container.decode(video=0)
        ]
    return [read_barcode(picture[:, 16:80]) for picture in pictures]


def onsets(film: Path) -> list[float]:
    """When clicks begin, in seconds."""
    sound = decode_audio(film, "mono")
    loud = np.flatnonzero(np.abs(sound.samples[0]) > 0.05) / sound.sample_rate
    return [float(time) for time in loud[np.diff(loud, prepend=-1.0) > 0.05]]


@pytest.mark.parametrize("kind", [".mov", ".mp4", ".mkv"])
def test_every_picture_and_click_is_where_its_video_is(
    shots: list[Path], tmp_path: Path, kind: str
) -> None:
    film = tmp_path / "made" / f"film{kind}"
    of = join(shots, film)
    assert [(shot.start, shot.frames) for shot in of] == [(0, 20), (20, 15), (35, 10)]
    assert seen(film) == [*range(20), *range(0, 30, 2), *range(10)]
    assert onsets(film) == pytest.approx([0.4, 1.5, 1.6 + 0.3], abs=0.002)
    with av.open(str(film)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert picture.average_rate == Fraction(25, 2)
        assert (sound.sample_rate, sound.channels) == (RATE, 2)
        assert sound.codec_context.name == ("aac" if kind == ".mp4" else "pcm_s24le")
    assert timecode_of(film) == "01:00:00:00"
    assert sorted(p.name for p in film.parent.iterdir()) == sorted([f"film{kind}", "film.edl"])


def test_the_cut_list_says_where_each_video_is(shots: list[Path], tmp_path: Path) -> None:
    """At 12.5 pictures a second an editor counts 12 a second; read by a pattern of one's own."""
    done = cli.main(
        ["join", *map(str, shots), "--out", str(tmp_path / "film.mov")], standalone_mode=False
    )
    assert not done
    lines = (tmp_path / "film.edl").read_text().splitlines()
    assert lines[:2] == ["TITLE: film", "FCM: NON-DROP FRAME"]
    events = [re.fullmatch(r"(\d{3})  AX       B     C        (.+)", line) for line in lines[2::2]]
    assert [event and event.groups() for event in events] == [
        ("001", "00:00:00:00 00:00:01:08 01:00:00:00 01:00:01:08"),
        ("002", "00:00:00:00 00:00:01:03 01:00:01:08 01:00:02:11"),
        ("003", "00:00:00:00 00:00:00:10 01:00:02:11 01:00:03:09"),
    ]
    names = [line.removeprefix("* FROM CLIP NAME: ") for line in lines[3::2]]
    assert names == ["one.mp4", "two.mkv", "three.mp4"]


def test_what_cannot_be_joined_is_told_before_anything_is_written(
    shots: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        join([*shots, tmp_path / "bad.mp4"], tmp_path / "made" / "film.mov")
    with pytest.raises(FoleyError, match=r"film\.avi: the name of a film ends in \.mov"):
        join(shots, tmp_path / "made" / "film.avi")
    with pytest.raises(FoleyError, match=r"one\.mp4 is itself one of the videos"):
        join(shots, shots[0])
    assert not (tmp_path / "made").exists()
