"""What is damaged, late or in one ear only: said or kept, never passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from model.types import Audio
from pipeline.media import (
    Framing,
    MediaError,
    decode_audio,
    mux,
    read_audio,
    read_frames,
    write_flac,
    write_wav,
)
from pipeline.media.picture import read_segments
from tests.pipeline.media.samples import (
    CLICK_RATE,
    Codecs,
    click_times,
    clicks,
    ffmpeg,
    read_barcode,
    write_sample,
)

RATE = 16_000
WHOLE = Framing(64, 64)
TIMES = [i / 30 for i in range(90)]
PCM = Codecs(audio="pcm_s16le")


@pytest.mark.parametrize("number", [40, 60])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_picture_that_the_decoder_patched_up_is_damaged(
    tmp_path: Path, number: int, share: float
) -> None:
    """The end of one packet is zeros: the decoder fills in, marks the picture, and goes on."""
    path = tmp_path / "a.mp4"
    write_sample(path, TIMES, None, Codecs(gop=90, b_frames=0))
    with av.open(str(path)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    place, size = packets[number]
    content = bytearray(path.read_bytes())
    begin = 5 + int(size * share)
    content[place + begin : place + size] = bytes(size - begin)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"its picture is damaged at {number / 30:.2f} s"):
        read_frames(path, TIMES, WHOLE)
    before = read_frames(path, TIMES[: number - 5], WHOLE)  # what is not asked for is not judged
    assert [read_barcode(picture) for picture in before] == list(range(number - 5))


def shifted(tmp_path: Path, seconds: float) -> Path:
    """Clicks at .5 and 2.0 s, where all sound from 1.0 s on carries later times."""
    write_sample(tmp_path / "whole.mkv", TIMES, clicks(3, [0.5, 2.0]), PCM)
    move = f"setts=ts='if(gte(PTS,1000),PTS+{round(1000 * seconds)},PTS)'"
    out = tmp_path / f"{seconds}.mkv"
    ffmpeg("-i", tmp_path / "whole.mkv", "-c", "copy", "-bsf:a", move, out)
    return out


@pytest.mark.parametrize("seconds", [0.01, 0.04])
def test_times_that_tremble_tear_no_hole_into_the_sound(tmp_path: Path, seconds: float) -> None:
    sound = read_audio(shifted(tmp_path, seconds), CLICK_RATE)
    assert click_times(sound, CLICK_RATE) == pytest.approx([0.5, 2.0], abs=0.001)


@pytest.mark.parametrize("seconds", [0.06, 0.1, 0.4])
def test_a_gap_in_the_times_is_a_gap_in_the_sound(tmp_path: Path, seconds: float) -> None:
    sound = read_audio(shifted(tmp_path, seconds), CLICK_RATE)
    assert click_times(sound, CLICK_RATE) == pytest.approx([0.5, 2.0 + seconds], abs=0.002)


@pytest.mark.parametrize("ear", [0, 1])
def test_sound_of_one_ear_is_half_in_the_mean_and_stays_on_its_side(
    tmp_path: Path, ear: int
) -> None:
    sides = np.zeros((2, 3 * CLICK_RATE), np.float32)
    sides[ear] = clicks(3, [1.0])
    write_sample(tmp_path / "a.mkv", TIMES, sides, Codecs(audio="pcm_s16le", layout="stereo"))
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.mkv", CLICK_RATE), sides[ear] / 2, atol=1e-4
    )
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.mkv", CLICK_RATE, "stereo"), sides, atol=1e-4
    )
    np.testing.assert_allclose(decode_audio(tmp_path / "a.mkv").samples, sides, atol=1e-4)
    mux(tmp_path / "a.mkv", sides, CLICK_RATE, tmp_path / "b.mp4")
    again = decode_audio(tmp_path / "b.mp4").samples
    assert click_times(again[ear], CLICK_RATE) == pytest.approx([1.0], abs=0.004)
    assert click_times(again[1 - ear], CLICK_RATE) == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_one_channel_is_written_as_one_and_read_on_both_sides(tmp_path: Path, suffix: str) -> None:
    write_sample(tmp_path / "a.mkv", TIMES, None)
    sound = clicks(3, [1.0], RATE)
    for samples in (sound, sound[None]):
        out = tmp_path / f"{samples.ndim}.{suffix}"
        mux(tmp_path / "a.mkv", samples, RATE, out)
        assert len(decode_audio(out).samples) == 1
        left, right = read_audio(out, RATE, "stereo")
        assert np.array_equal(left, right)
        assert click_times(left, RATE) == pytest.approx([1.0], abs=0.004)
    assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()


Writer = Callable[[Path, Audio], object]


def damaged_video(folder: Path) -> Path:
    """A file that is cut in its middle: a mux of it begins, and then fails."""
    write_sample(folder / "whole.mp4", TIMES, clicks(3, [1.0]), movflags="+faststart")
    path = folder / "cut.mp4"
    content = (folder / "whole.mp4").read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    cut = damaged_video(tmp_path)
    write_sample(tmp_path / "a.mkv", TIMES, None)
    nan = np.full(RATE, np.nan, np.float32)
    good = np.zeros(RATE, np.float32)
    tries: list[tuple[str, Callable[[Path], object]]] = [
        ("out.webm", lambda out: mux(tmp_path / "a.mkv", good, RATE, out)),  # which takes no h264
        ("out.mp4", lambda out: mux(cut, good, RATE, out)),
        ("nan.mp4", lambda out: mux(tmp_path / "a.mkv", nan, RATE, out)),
        ("rate.flac", lambda out: write_flac(out, good, 10_000_000)),
        ("nan.wav", lambda out: write_wav(out, nan, RATE)),
    ]
    for name, write in tries:
        out = tmp_path / name
        out.write_bytes(b"an older file")
        with pytest.raises(MediaError):
            write(out)
        assert out.read_bytes() == b"an older file", name
    expected = {"a.mkv", "cut.mp4", "whole.mp4", *(name for name, _ in tries)}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_name_is_given_when_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who looks while a mux is under way sees the old file, and then the new one."""
    from pipeline.media import writing

    write_sample(tmp_path / "a.mkv", TIMES, None)
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an older file")
    seen: list[bytes] = []
    encoded = writing._encoded

    def watched(*args: object) -> object:
        for packet in encoded(*args):  # pyright: ignore[reportArgumentType]
            seen.append(out.read_bytes())
            yield packet

    monkeypatch.setattr(writing, "_encoded", watched)
    mux(tmp_path / "a.mkv", clicks(3, [1.0], RATE), RATE, out)
    assert len(seen) > 10
    assert set(seen) == {b"an older file"}
    assert click_times(read_audio(out, RATE), RATE) == pytest.approx([1.0], abs=0.004)


def test_the_same_sound_gives_the_same_bytes(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mkv", TIMES, None)
    for suffix in ("mkv", "mp4"):
        outs = [tmp_path / f"{i}.{suffix}" for i in range(2)]
        for out in outs:
            mux(tmp_path / "a.mkv", clicks(3, [1.0], RATE), RATE, out)
        assert outs[0].read_bytes() == outs[1].read_bytes()


def test_sound_comes_between_the_pictures(tmp_path: Path) -> None:
    """A player that reads on finds both: no half of the file is sound alone."""
    write_sample(tmp_path / "a.mkv", TIMES, None)
    mux(tmp_path / "a.mkv", clicks(3, [1.0], RATE), RATE, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        places = sorted((p.pos, p.stream.type) for p in container.demux() if p.size)
    kinds = [kind for _, kind in places]
    for part in np.array_split(kinds, 6):
        assert {"audio", "video"} == set(part)


@pytest.mark.parametrize("size", [1, 7, 20, 100])
def test_segments_are_the_frames_in_pieces(tmp_path: Path, size: int) -> None:
    write_sample(tmp_path / "a.mp4", TIMES, None)
    asked = np.arange(40) / 16
    pieces = list(read_segments(tmp_path / "a.mp4", asked, WHOLE, size))
    assert [len(piece) for piece in pieces] == [size] * (40 // size) + [40 % size] * (40 % size > 0)
    assert np.array_equal(
        np.concatenate(pieces), read_frames(tmp_path / "a.mp4", list(asked), WHOLE)
    )
