"""Films of what cameras give: drop-frame timecode and HDR; and films that are stopped."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.generation.joining import join
from pipeline.generation.times import frames_of, timecode_at
from pipeline.media import timecode_of
from tests.pipeline.media.samples import ffmpeg, write_sample

NTSC = Fraction(30_000, 1001)


def drop_frame_codes(each: int) -> Iterator[str]:
    """Every timecode of a day in drop frame, as SMPTE 12M has it, one after the other.

    The first numbers of every minute are left out, but for every tenth minute.
    """
    for minute in range(24 * 60):
        for second in range(60):
            first = each // 15 if second == 0 and minute % 10 else 0
            for frame in range(first, each):
                yield f"{minute // 60:02d}:{minute % 60:02d}:{second:02d};{frame:02d}"


@pytest.mark.parametrize("each", [30, 60])
def test_drop_frame_is_counted_as_smpte_has_it(each: int) -> None:
    rate = Fraction(1000 * each, 1001)
    for number, code in enumerate(islice(drop_frame_codes(each), 130_000)):
        assert timecode_at(number, rate, drop=True) == code
        if number % 97 == 0:
            assert frames_of(code, each, code) == number


def test_the_cut_list_of_drop_frame_sources_is_drop_frame(tmp_path: Path) -> None:
    for name, code in (("a", "00:00:59;28"), ("b", "00:00:59:28")):
        write_sample(tmp_path / "plain.mp4", [float(i / NTSC) for i in range(10)], None)
        ffmpeg("-i", tmp_path / "plain.mp4", "-c", "copy", "-timecode", code,
               tmp_path / f"{name}.mov")  # fmt: skip
    film = tmp_path / "film.mov"
    join([tmp_path / "a.mov", tmp_path / "b.mov"], film)
    lines = film.with_suffix(".edl").read_text().splitlines()
    assert lines[1] == "FCM: DROP FRAME"
    assert [line[29:] for line in lines[2::2]] == [
        "00:00:59;28 00:01:00;10 01:00:00;00 01:00:00;10",
        "00:00:59:28 00:01:00:08 01:00:00;10 01:00:00;20",
    ]
    assert timecode_of(film) == "01:00:00;00"
    join([tmp_path / "b.mov", tmp_path / "a.mov"], tmp_path / "other.mov")  # the first one decides
    assert "FCM: NON-DROP FRAME" in (tmp_path / "other.edl").read_text()


def pq(light: float) -> float:
    """Signal in 0..1 of light in cd/m2 (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    y = (light / 10_000) ** m1
    return ((c1 + c2 * y) / (1 + c3 * y)) ** m2


@pytest.mark.parametrize("light", [2.0, 40.0])
def test_hdr_is_as_bright_in_the_film_as_it_was(tmp_path: Path, light: float) -> None:
    """A grey of PQ, in a film whose white is 203 cd/m2 (BT.2408) on a display of BT.1886."""
    grey = np.full(64 * 64 * 3 // 2, 512, "<u2")  # no colour
    grey[: 64 * 64] = round(64 + 876 * pq(light))
    (tmp_path / "raw").write_bytes(grey.tobytes() * 5)
    told = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x64", "-i", tmp_path / "raw")
    ffmpeg(*raw, "-c:v", "libx265", "-x265-params", told, tmp_path / "hdr.mp4")
    join([tmp_path / "hdr.mp4"], tmp_path / "film.mov")
    with av.open(str(tmp_path / "film.mov")) as container:
        seen = next(container.decode(video=0)).to_ndarray(format="rgb24").mean() / 255
    wanted = (light / 203) ** (1 / 2.4)
    assert seen == pytest.approx(wanted, abs=0.02)
    assert abs(pq(light) - wanted) > 0.03  # what a film shows that takes the signal as it is
