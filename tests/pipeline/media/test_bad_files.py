"""Broken, hostile and absent files: each is one clear line, in bounded time, and nothing worse."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.media import Framing, MediaError, probe, read_audio, read_frames
from tests.pipeline.media.makers import sound_with_cover
from tests.pipeline.media.samples import Codecs, clicks, ffmpeg, write_sample

WHOLE = Framing(64, 64)
ASKED = list(np.arange(48) / 16)
READERS: list[Callable[[Path], object]] = [
    probe,
    lambda path: read_audio(path, 16_000),
    lambda path: read_frames(path, ASKED, WHOLE),
]


def complaints(path: Path) -> list[str]:
    """What each reader that fails says; each must be one line that names the file."""
    said: list[str] = []
    for reader in READERS:
        try:
            reader(path)
        except MediaError as error:
            said.append(str(error))
    assert all(text.startswith(str(path.parent)) and len(text.splitlines()) == 1 for text in said)
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s of 30 frames/s and clicks, with its index in front."""
    path = tmp_path_factory.mktemp("whole") / "whole.mp4"
    noise = clicks(3, [0.5, 1.5]) + np.random.default_rng(0).normal(0, 0.1, 3 * 48_000).astype(
        np.float32
    )
    write_sample(path, [i / 30 for i in range(90)], noise, movflags="+faststart")
    assert complaints(path) == []
    return path


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"\x00", "not a media file"),
        (b"<!doctype html><title>404</title>", "not a media file"),
        (b"ffconcat version 1.0\nfile whole.mp4\n", "not a media file"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n",
            "not a media file",
        ),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "cannot be"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 50, "cannot be"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "cannot be"),
        (b"\x47" * 188 * 6, "cannot be|no "),
        (bytes(range(256)) * 64, "not a media file"),
    ],
)
def test_what_only_claims_to_be_a_video(
    tmp_path: Path, whole: Path, content: bytes, what: str
) -> None:
    (tmp_path / "whole.mp4").write_bytes(whole.read_bytes())  # what a playlist would lead to
    path = tmp_path / "claims.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=what):
        read_audio(path, 16_000)
    assert len(complaints(path)) >= 2


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    expected = {
        "pipe": "not a regular file",
        "folder": "a folder",
        "round": "symbolic links",
        "gone": "No such file",
    }
    for name, what in expected.items():
        said = complaints(tmp_path / f"{name}.mp4")
        assert len(said) == len(READERS)
        assert all(what in text for text in said)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_an_unreadable_file(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "locked.mp4"
    path.write_bytes(whole.read_bytes())
    path.chmod(0)
    assert all("Permission denied" in text for text in complaints(path))


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "q'\"`$(x).mp4", "\N{FACE WITH TEARS OF JOY}.mp4", "concat:a|b.mp4", "-i.mp4"],
)
def test_any_name_will_do(tmp_path: Path, whole: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(whole.read_bytes())
    assert complaints(path) == []


def test_a_name_of_two_lines_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.mp4"
    path.write_bytes(b"nothing of note")
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/two\\nlines.mp4: not a media file of a known format"
    ]


@pytest.mark.parametrize("percent", [1, 10, 30, 50, 70, 90, 98])
def test_a_cut_file_is_truncated_wherever_it_is_cut(
    tmp_path: Path, whole: Path, percent: int
) -> None:
    content = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: len(content) * percent // 100])
    said = complaints(path)
    assert len(said) == len(READERS)
    if percent >= 10:  # behind the index
        assert all("truncated" in text for text in said)


@pytest.mark.parametrize("percent", [30, 50, 70])
def test_a_cut_matroska_file_is_truncated(tmp_path: Path, percent: int) -> None:
    write_sample(
        tmp_path / "whole.mkv",
        [i / 30 for i in range(90)],
        clicks(3, [1]),
        Codecs(audio="pcm_s16le"),
    )
    content = (tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(content[: len(content) * percent // 100])
    with pytest.raises(MediaError, match=r"truncated: its audio ends|cannot be decoded"):
        read_audio(path, 16_000)
    with pytest.raises(MediaError, match=r"truncated: its video ends|cannot be decoded"):
        read_frames(path, ASKED, WHOLE)


def test_sound_that_outlasts_the_picture_is_not_a_cut(tmp_path: Path) -> None:
    """FLV tells one duration for both: the shorter of them ends early by right."""
    write_sample(tmp_path / "a.flv", [i / 30 for i in range(30)], clicks(4, [1, 3.5]))
    assert len(read_frames(tmp_path / "a.flv", [0, 0.5, 2, 3.9], WHOLE)) == 4
    write_sample(tmp_path / "b.flv", [i / 30 for i in range(120)], clicks(1, [0.5]))
    assert len(read_audio(tmp_path / "b.flv", 1000)) == pytest.approx(4000, abs=100)


@given(st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_an_error_or_nothing(tmp_path: Path, whole: Path, data: st.DataObject) -> None:
    """Whatever bytes are overwritten, what comes out is a MediaError or a result."""
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    complaints(path)


@pytest.mark.parametrize(("width", "height"), [(16_000, 16_000), (8_256, 64)])
def test_a_huge_header_is_refused_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "huge.avi"
    codecs = Codecs("rawvideo", "pcm_s16le", tick=Fraction(1, 30))
    write_sample(path, [0, 1 / 30], clicks(0.1, []), codecs)
    content = path.read_bytes()
    small, huge = np.array([96, 64], "<i4").tobytes(), np.array([width, height], "<i4").tobytes()
    at = content.index(b"strf") + 12  # the picture's header: size, then width and height
    assert content[at : at + 8] == small
    path.write_bytes(content[:at] + huge + content[at + 8 :])
    said = complaints(path)
    assert len(said) == len(READERS)
    assert all("over the limit" in text for text in said)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    sound = clicks(1, [0.5])
    sound[20_000] = value
    write_sample(tmp_path / "a.mov", [i / 30 for i in range(30)], sound, Codecs(audio="pcm_f32le"))
    with pytest.raises(MediaError, match="not numbers"):
        read_audio(tmp_path / "a.mov", 48_000)


def test_sound_that_changes_its_rate(tmp_path: Path) -> None:
    for name, rate in (("a", 48_000), ("b", 32_000)):
        times = [i / 30 for i in range(30)]
        write_sample(tmp_path / f"{name}.ts", times, clicks(1, [0.5], rate), Codecs(rate=rate))
    path = tmp_path / "ab.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(MediaError, match="changes its rate"):
        read_audio(path, 16_000, max_seconds=10, exact=True)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    sound_with_cover(tmp_path / "a.mp3")
    info = probe(tmp_path / "a.mp3")
    assert (info.container, info.audio_codec, info.video_codec, info.width) == (
        "mp3",
        "mp3float",
        None,
        None,
    )


def test_subtitles_alone(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nnothing to see\n")
    ffmpeg("-i", tmp_path / "a.srt", tmp_path / "a.mkv")
    info = probe(tmp_path / "a.mkv")
    assert (info.container, info.audio_codec, info.video_codec) == ("matroska", None, None)


@pytest.mark.parametrize(
    ("size", "rate"), [("1x1", "25"), ("2x400", "25"), ("64x64", "240"), ("64x64", "1/5")]
)
def test_odd_pictures_are_read(tmp_path: Path, size: str, rate: str) -> None:
    path = tmp_path / "odd.mkv"
    picture = f"testsrc=s={size}:r={rate}:d=10"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        picture,
        "-f",
        "lavfi",
        "-i",
        "sine=d=10",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv444p",
        path,
    )
    assert complaints(path) == []
    width, height = (int(side) for side in size.split("x"))
    info = probe(path)
    assert (info.width, info.height, info.fps) == (
        width,
        height,
        pytest.approx(float(Fraction(rate)), rel=0.01),
    )
    assert read_frames(path, ASKED, WHOLE).shape == (len(ASKED), 64, 64, 3)


def test_a_narrow_picture_costs_no_memory(tmp_path: Path) -> None:
    """Scaled whole, a line of 8,000 pixels would be 2 million wide.

    Cropped first it is a square like any other.
    """
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=8000x2:d=1:r=5",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "yuv444p",
        tmp_path / "a.mkv",
    )
    assert read_frames(tmp_path / "a.mkv", [0.0, 0.5], Framing(292, 256)).shape == (2, 256, 256, 3)
    with pytest.raises(MediaError, match="too narrow to scale"):
        read_frames(tmp_path / "a.mkv", [0.0], Framing(292))


def test_a_recording_that_begins_in_the_middle(tmp_path: Path) -> None:
    """A transport stream may be cut anywhere.

    What can be decoded counts, from the first whole picture on.
    """
    write_sample(tmp_path / "whole.ts", [i / 30 for i in range(120)], clicks(4, [1, 2, 3]))
    content = (tmp_path / "whole.ts").read_bytes()
    path = tmp_path / "late.ts"
    path.write_bytes(content[len(content) // 188 // 3 * 188 :])
    assert complaints(path) == []
    assert (probe(path).width, probe(path).rotation) == (96, 0)
