"""Pictures that nobody needs are not decoded.

What is shown is the same to the bit as if they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media import Framing, MediaError, read_frames
from pipeline.media.screen import _foresee, _play, on_screen
from tests.pipeline.media.samples import SIDE, Codecs, ffmpeg, read_barcode, shown, write_sample

B_FRAMES = Codecs(gop=40, b_frames=3)
GRID = np.arange(40) / 16


def times_of(kind: str) -> list[float]:
    rng = np.random.default_rng(7)
    if kind == "vfr":
        return [0.0, *np.cumsum(rng.choice([0.011, 0.033, 0.05, 0.31], 60))]
    fps, start = {"25": (25, 0.0), "50": (50, 0.0), "late": (30, 0.5), "120": (120, 0.0)}[kind]
    return [start + i / fps for i in range(3 * fps)]


def write(folder: Path, kind: str, suffix: str) -> Path:
    path = folder / f"{kind}.{suffix}"
    if kind != "cut":
        write_sample(path, times_of(kind), None, B_FRAMES)
        return path
    ffmpeg("-ss", "0.35", "-i", write(folder, "50", "mp4"), "-c", "copy", path)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("kind", ["25", "50", "120", "vfr", "late", "cut"])
def test_the_same_to_the_bit_as_with_every_picture(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write(tmp_path, kind, suffix)
    foreseen = _foresee(path, GRID)
    assert foreseen is not None
    assert len(foreseen.unseen) > 0
    ours = [
        (first, last, frame.pts, frame.to_ndarray()) for first, last, frame in on_screen(path, GRID)
    ]
    full = [
        (first, last, frame.pts, frame.to_ndarray())
        for first, last, frame in _play(path, GRID, None)
    ]
    assert [found[:3] for found in ours] == [found[:3] for found in full]
    assert all(np.array_equal(a[3], b[3]) for a, b in zip(ours, full, strict=True))


def test_packets_are_read_no_further_than_needed(tmp_path: Path) -> None:
    path = write(tmp_path, "50", "mp4")
    foreseen = _foresee(path, np.array([0.0, 0.5]))
    assert foreseen is not None
    assert 50 <= len(foreseen.unseen) < 120  # of 150 pictures, those of the first second and a half
    assert numbers(path, [0.0, 0.5]) == [0, 25]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pictures_that_are_promised_and_do_not_come(tmp_path: Path, suffix: str) -> None:
    """Without its first key picture a file shows nothing before the next one.

    Times count from there.
    """
    times = times_of("50")
    whole, cut = tmp_path / "whole.mp4", tmp_path / f"cut.{suffix}"
    write_sample(whole, times, None, B_FRAMES)
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number > 0 and packet.size:
                packet.stream = stream
                out.mux(packet)
    foreseen = _foresee(cut, GRID)
    assert foreseen is not None
    assert foreseen.unseen
    asked = list(GRID[:30])
    assert numbers(cut, asked) == [40 + number for number in shown(times[40:], asked, 1e-3)]


def numbers(path: Path, asked: Sequence[float]) -> list[int]:
    return [read_barcode(picture) for picture in read_frames(path, asked, Framing(SIDE, SIDE))]


def test_a_codec_that_is_not_known(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mp4", times_of("25"), None)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="in a codec that cannot be decoded"):
        numbers(tmp_path / "b.mp4", [0.0])
