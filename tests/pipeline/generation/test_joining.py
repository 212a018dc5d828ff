"""A film of several videos: each picture and sound at its place, and the list of its cuts."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(60)])
def test_pictures_are_evenly_spaced_at_the_rate_of_editors(tmp_path: Path, rate: Fraction) -> None:
    """The mean of the first's own times, in whole milliseconds, is a little beside the rate."""
    one, film = tmp_path / "one.mkv", tmp_path / "film.mov"
    write_sample(one, [float(i / rate) for i in range(31)], None)
    join([one, one], film)
    with av.open(str(film)) as container:
        picture = container.streams.video[0]
        assert picture.average_rate == rate
        times = sorted(
            float(p.pts * (picture.time_base or 0))
            for p in container.demux(picture)
            if p.pts is not None
        )
    assert times == [float(number / rate) for number in range(62)]


def test_an_anamorphic_first_video_fills_the_film(tmp_path: Path) -> None:
    write_sample(tmp_path / "plain.mp4", [i / 25 for i in range(5)], None)
    ffmpeg("-i", tmp_path / "plain.mp4", "-vf", "setsar=4/3", tmp_path / "wide.mp4")
    join([tmp_path / "wide.mp4"], tmp_path / "film.mov")
    with av.open(str(tmp_path / "film.mov")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="gray")
    assert picture.shape == (64, 128)
    assert min(picture[[0, -1]].max(1).min(), picture[:, [0, -1]].max(0).min()) > 100


def test_the_cut_list_counts_by_a_videos_own_timecode(shots: list[Path], tmp_path: Path) -> None:
    """Picture 20 of 25 in its second is the film's 9 of 12."""
    write_sample(tmp_path / "plain.mp4", [i / 25 for i in range(25)], None)
    ffmpeg("-i", tmp_path / "plain.mp4", "-c", "copy", "-timecode", "10:00:03:20",
           tmp_path / "coded.mov")  # fmt: skip
    ffmpeg("-i", shots[2], "-c", "copy", "-metadata", "timecode=soon", tmp_path / "soon.mkv")
    videos = [shots[0], tmp_path / "coded.mov", tmp_path / "soon.mkv"]
    join(videos, tmp_path / "film.mov")
    lines = (tmp_path / "film.edl").read_text().splitlines()[2::2]
    assert [line[29:52] for line in lines] == [
        "00:00:00:00 00:00:01:08", "10:00:03:09 10:00:04:09", "00:00:00:00 00:00:00:10",
    ]  # fmt: skip


def test_another_cut_list_is_not_written_over(shots: list[Path], tmp_path: Path) -> None:
    film, cuts = tmp_path / "film.mov", tmp_path / "film.edl"
    cuts.write_text("TITLE: an editor's own\n")
    with pytest.raises(FoleyError, match=r"film\.edl is there already, and not of this film"):
        join(shots[:1], film)
    assert cuts.read_text() == "TITLE: an editor's own\n"
    assert not film.exists()
    cuts.unlink()
    join(shots[:1], film)
    join(shots[:2], film)  # its own is
    assert cuts.read_text().count("FROM CLIP") == 2
    join(shots[:2], tmp_path / "film.mkv")  # and the same may have two films


def test_what_cannot_be_joined_is_told_before_anything_is_written(
    shots: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        join([*shots, tmp_path / "bad.mp4"], tmp_path / "made" / "film.mov")
    write_sample(tmp_path / "whole.mkv", [i / 25 for i in range(100)], None)
    held = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(held[: len(held) // 2])
    with pytest.raises(MediaError, match=r"half\.mkv: truncated"):
        join([*shots, tmp_path / "half.mkv"], tmp_path / "made" / "film.mov")
    with pytest.raises(FoleyError, match=r"film\.avi: the name of a film ends in \.mov"):
        join(shots, tmp_path / "made" / "film.avi")
    with pytest.raises(FoleyError, match=r"one\.mp4 is itself one of the videos"):
        join(shots, shots[0])
    with pytest.raises(FoleyError, match=r"film\.mov: cannot be written: Not a directory"):
        join(shots, tmp_path / "bad.mp4" / "film.mov")
    with pytest.raises(FoleyError, match=r"a\.mov: a name too long to write"):
        join(shots, tmp_path / "made" / f"{'a' * 252}.mov")
    latin = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    latin.write_bytes(shots[0].read_bytes())
    with pytest.raises(MediaError, match=r"caf\\udce9\.mp4: cannot be read: its name.*not UTF-8"):
        join([latin], tmp_path / "film.mov")
    (tmp_path / "folder.edl").mkdir()
    with pytest.raises(FoleyError, match=r"folder\.edl is there already"):
        join(shots, tmp_path / "folder.mov")
    assert not (tmp_path / "made").exists()
