"""What goes along with a copied picture, what is said to be left out, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.media import MediaError, Muxing, check_holds, decode_audio, mux, probe, read_audio
from tests.pipeline.media.samples import Codecs, click_times, clicks, ffmpeg, write_sample

RATE = 16_000
TIMES = [i / 25 for i in range(50)]
NEW = clicks(2.0, [1.0], RATE)
WORDS = """;FFMETADATA1
title=My film
creation_time=2024-05-01T10:00:00.000000Z
location=+48.1000+011.5000/
[CHAPTER]
TIMEBASE=1/1000
START=0
END=800
title=One
[CHAPTER]
TIMEBASE=1/1000
START=800
END=2000
title=Two
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mov with two sound tracks, subtitles, chapters, words, and a timecode."""
    folder = tmp_path_factory.mktemp("film")
    write_sample(folder / "a.mp4", TIMES, clicks(2.0, [0.5]))
    (folder / "words.txt").write_text(WORDS)
    (folder / "a.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    ffmpeg(
        *("-i", folder / "a.mp4", "-i", folder / "a.srt", "-i", folder / "words.txt"),
        *("-f", "lavfi", "-i", "sine=d=2", "-map", "0:v", "-map", "0:a", "-map", "3:a"),
        *("-map", "1", "-map_metadata", "2", "-map_chapters", "2", "-c:v", "copy", "-c:a", "aac"),
        *("-c:s", "mov_text", "-timecode", "01:02:03:04", folder / "film.mov"),
    )
    return folder / "film.mov"


def packets(path: Path, kind: str, number: int = 0) -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        found: Sequence[Any] = [p for p in container.demux(stream) if p.size and p.pts >= 0]
        return [(bytes(p), float(p.pts * p.time_base)) for p in found]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_tracks_words_and_timecode_go_along(film: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    left_out = mux(film, NEW, RATE, out, Muxing(keep_audio=True))
    assert left_out == []
    with av.open(str(out)) as container:
        told = container.metadata
        assert told["title"] == "My film"
        assert told["creation_time"].startswith("2024-05-01T10:00:00")
        assert told["location"] == "+48.1000+011.5000/"
        chapters = [
            (c["start"] * (c["time_base"] or Fraction(0)), c["metadata"])
            for c in container.chapters()
        ]
        assert chapters == [(0, {"title": "One"}), (Fraction(4, 5), {"title": "Two"})]
        assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"
        assert len(container.streams.audio) == 3
    assert packets(out, "subtitles") == packets(film, "subtitles")
    for number in (0, 1):
        own, kept = packets(film, "audio", number), packets(out, "audio", number + 1)
        assert [data for data, _ in kept] == [data for data, _ in own]
        assert [time for _, time in kept] == pytest.approx([time for _, time in own], abs=1e-3)
    assert click_times(read_audio(out, RATE), RATE) == pytest.approx([1.0], abs=0.004)


def test_what_does_not_go_along_is_said(film: Path, tmp_path: Path) -> None:
    left_out = mux(film, NEW, RATE, tmp_path / "out.mkv")
    assert len(left_out) == 2
    assert "--keep-audio" in left_out[0]
    assert left_out[1].startswith("subtitles (mov_text) are left out")
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "My film"
        assert len(container.chapters()) == 2
        assert len(container.streams) == 2


def test_a_sound_track_that_cannot_be_kept_is_refused_before_any_work(
    film: Path, tmp_path: Path
) -> None:
    write_sample(tmp_path / "a.webm", TIMES, clicks(2, [1]), Codecs("libvpx-vp9", "libopus"))
    check_holds(tmp_path / "a.webm", tmp_path / "o.webm", keep_audio=True)
    ffmpeg("-i", tmp_path / "a.webm", "-c:v", "copy", "-c:a", "flac", tmp_path / "a.mkv")
    check_holds(tmp_path / "a.mkv", tmp_path / "o.webm")
    with pytest.raises(MediaError, match=r"cannot hold the sound track's flac: choose .*mkv"):
        check_holds(tmp_path / "a.mkv", tmp_path / "o.webm", keep_audio=True)


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_hevc_keeps_the_name_that_apple_knows(tmp_path: Path, suffix: str) -> None:
    write_sample(tmp_path / "a.mp4", TIMES[:5], None)
    ffmpeg(
        *("-i", tmp_path / "a.mp4", "-c:v", "libx265", "-x265-params", "log-level=none:pools=1"),
        *("-preset", "ultrafast", "-tag:v", "hvc1", tmp_path / "a.mov"),
    )
    out = tmp_path / f"out{suffix}"
    mux(tmp_path / "a.mov", NEW, RATE, out)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_a_recording_without_a_duration_is_as_long_as_its_packets(tmp_path: Path) -> None:
    """As a browser writes it, which cannot go back to the header."""
    write_sample(tmp_path / "a.webm", TIMES, clicks(1.5, [1]), Codecs("libvpx", "libopus"))
    piped = tmp_path / "piped.webm"
    ffmpeg("-i", tmp_path / "a.webm", "-c", "copy", "-live", "1", "-f", "webm", piped)
    with av.open(str(piped)) as container:
        assert container.duration is None
    assert probe(piped).duration == pytest.approx(2.0, abs=0.002)
    sound = decode_audio(piped)
    assert sound.samples.shape[1] / sound.sample_rate == pytest.approx(2.0, abs=0.002)


def test_what_was_cut_off_does_not_come_back(tmp_path: Path) -> None:
    write_sample(tmp_path / "whole.mp4", TIMES, None)
    ffmpeg("-ss", "0.9", "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    check_holds(tmp_path / "whole.mp4", tmp_path / "o.mkv")
    check_holds(tmp_path / "cut.mp4", tmp_path / "o.mov")
    with pytest.raises(MediaError, match=r"the cut of cut.mp4 .*choose .mp4 or .mov$"):
        check_holds(tmp_path / "cut.mp4", tmp_path / "o.mkv")


def test_transparency_is_kept_or_said(tmp_path: Path) -> None:
    source = tmp_path / "clear.webm"
    fade = "color=red@0.25:s=64x64:r=10:d=0.5,format=yuva420p"
    ffmpeg("-f", "lavfi", "-i", fade, "-c:v", "libvpx-vp9", source)
    assert mux(source, NEW, RATE, tmp_path / "out.webm") == []
    with av.open(str(tmp_path / "out.webm")) as container:
        told = {k.lower(): v for k, v in container.streams.video[0].metadata.items()}
        assert told["alpha_mode"] == "1"
    ffmpeg(
        *("-c:v", "libvpx-vp9", "-i", tmp_path / "out.webm", "-vf", "alphaextract"),
        *("-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo", tmp_path / "alpha"),
    )
    alpha = np.frombuffer((tmp_path / "alpha").read_bytes(), np.uint8)
    assert alpha.mean() == pytest.approx(64, abs=3)
    (said,) = mux(source, NEW, RATE, tmp_path / "out.mp4")
    assert "transparency" in said
