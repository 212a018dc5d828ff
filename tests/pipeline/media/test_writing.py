"""New sound under an old picture.

The picture's packets are the same bytes, and sound meets picture.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.media import (
    Framing,
    MediaError,
    Muxing,
    decode_audio,
    mux,
    probe,
    read_audio,
    read_frames,
    write_flac,
    write_wav,
)
from tests.pipeline.media.samples import (
    Codecs,
    click_times,
    clicks,
    ffmpeg,
    read_barcode,
    write_sample,
)

RATE = 16_000
TIMES = [i / 30 for i in range(75)]


def packets(path: Path) -> list[tuple[bytes, float]]:
    """The picture's packets: bytes, and seconds after the first."""
    with av.open(str(path)) as container:
        found = [
            (bytes(p), float((p.pts or 0) * p.time_base))
            for p in container.demux(video=0)
            if p.size
        ]
    start = min(time for _, time in found)
    return [(content, time - start) for content, time in found]


@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize(
    ("source", "target", "codecs"),
    [
        ("mp4", "mp4", Codecs()),
        ("mp4", "mkv", Codecs()),
        ("mkv", "mp4", Codecs()),
        ("mov", "mov", Codecs(audio="pcm_s16le")),
        ("webm", "webm", Codecs("libvpx-vp9", "libopus")),
        ("webm", "mp4", Codecs("libvpx-vp9", "libopus")),
        ("avi", "mp4", Codecs("mpeg4", "pcm_s16le", tick=Fraction(1, 30))),
    ],
)
def test_the_picture_is_copied_bit_for_bit(
    tmp_path: Path, source: str, target: str, codecs: Codecs, start: float
) -> None:
    video, out = tmp_path / f"a.{source}", tmp_path / f"out.{target}"
    write_sample(video, [start + t for t in TIMES], clicks(3, [0.1]), codecs)
    sound = clicks(10, [TIMES[30], TIMES[60]], RATE)  # longer than the picture
    mux(video, sound, RATE, out)
    before, after = packets(video), packets(out)
    assert [content for content, _ in after] == [content for content, _ in before]
    assert [time for _, time in after] == pytest.approx([time for _, time in before], abs=0.002)
    assert click_times(read_audio(out, RATE), RATE) == pytest.approx(
        [TIMES[30], TIMES[60]], abs=0.004
    )
    info, was = probe(out), probe(video)
    assert (info.width, info.height, info.video_codec) == (was.width, was.height, was.video_codec)
    with av.open(str(out)) as container:
        (track,) = container.streams.audio
        ends = max(
            (p.pts + (p.duration or 0)) * p.time_base
            for p in container.demux(track)
            if p.pts is not None
        )
    assert float(ends) == pytest.approx(was.duration, abs=1024 / RATE)


def test_pictures_from_a_stream_are_the_same_pictures(tmp_path: Path) -> None:
    """A transport stream frames its packets otherwise than mp4 does.

    The pictures are equal to the last bit.
    """
    write_sample(tmp_path / "a.ts", TIMES, clicks(3, [1]))
    mux(tmp_path / "a.ts", clicks(2.5, [1], RATE), RATE, tmp_path / "b.mp4")
    before, after = (read_frames(tmp_path / name, TIMES, Framing(64)) for name in ("a.ts", "b.mp4"))
    np.testing.assert_array_equal(before, after)


def test_rotation_and_edit_lists_survive(tmp_path: Path) -> None:
    write_sample(tmp_path / "plain.mp4", TIMES, clicks(3, [1]))
    ffmpeg(
        "-display_rotation",
        "90",
        "-i",
        tmp_path / "plain.mp4",
        "-c",
        "copy",
        tmp_path / "turned.mp4",
    )
    mux(tmp_path / "turned.mp4", clicks(2.5, [1], RATE), RATE, tmp_path / "turned out.mp4")
    assert probe(tmp_path / "turned out.mp4").rotation == 90
    ffmpeg("-ss", "0.75", "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "cut.mp4")
    mux(tmp_path / "cut.mp4", clicks(1.75, [0.5], RATE), RATE, tmp_path / "cut out.mp4")
    asked = [0.0, 0.5, 1.0]
    before, after = (
        read_frames(tmp_path / name, asked, Framing(64, 64)) for name in ("cut.mp4", "cut out.mp4")
    )
    assert [read_barcode(p) for p in after] == [read_barcode(p) for p in before]
    assert click_times(read_audio(tmp_path / "cut out.mp4", RATE), RATE) == pytest.approx(
        [0.5], abs=0.004
    )


def test_a_file_may_be_given_new_sound_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_sample(path, TIMES, clicks(3, [1]))
    before = packets(path)
    mux(path, np.stack([clicks(2.5, [0.5], RATE), clicks(2.5, [1.5], RATE)]), RATE, path)
    assert packets(path) == before
    left, right = read_audio(path, RATE, "stereo")
    assert click_times(left, RATE) == pytest.approx([0.5], abs=0.004)
    assert click_times(right, RATE) == pytest.approx([1.5], abs=0.004)


def bad_sounds() -> list[tuple[NDArray[np.float32], str]]:
    return [
        (np.zeros((3, 100), np.float32), r"must be \[n\]"),
        (np.full(100, np.nan, np.float32), "not numbers"),
    ]


@pytest.mark.parametrize(("sound", "what"), bad_sounds())
def test_bad_sound_is_refused(tmp_path: Path, sound: NDArray[np.float32], what: str) -> None:
    write_sample(tmp_path / "a.mp4", TIMES, None)
    with pytest.raises(MediaError, match=what):
        mux(tmp_path / "a.mp4", sound, RATE, tmp_path / "out.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4"}


def test_what_cannot_be_muxed_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mkv", TIMES, None)
    sound = clicks(2.5, [], RATE)
    for out, what in (
        (tmp_path / "out.gif", "must end in one of"),
        (tmp_path / "out.webm", "out.webm: cannot hold a picture of h264"),  # webm takes no h264
        (tmp_path / "gone" / "out.mp4", "out.mp4: cannot be written: No such file or directory"),
    ):
        with pytest.raises(MediaError, match=what):
            mux(tmp_path / "a.mkv", sound, RATE, out)
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "tone.m4a")
    with pytest.raises(MediaError, match=r"tone.m4a: no video stream"):
        mux(tmp_path / "tone.m4a", sound, RATE, tmp_path / "out.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"a.mkv", "tone.m4a"}


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_files_keep_every_sample(tmp_path: Path, channels: int) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (channels, 12_345)).astype(np.float32)
    for name, write in (("a.wav", write_wav), ("a.flac", write_flac)):
        write(tmp_path / name, sound, 44_100)
        read = decode_audio(tmp_path / name)
        assert read.sample_rate == 44_100
        np.testing.assert_allclose(read.samples, sound, atol=1.1 / 2**15)
    write_wav(tmp_path / "loud.wav", sound * 3, 44_100)  # made softer as a whole, never cut
    softer = sound / np.abs(sound).max()
    np.testing.assert_allclose(
        decode_audio(tmp_path / "loud.wav").samples, softer, atol=1.1 / 2**15
    )


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_24_bits_keep_what_24_bits_hold(tmp_path: Path, name: str) -> None:
    whole = np.random.default_rng(0).integers(-(2**23), 2**23, (2, 5000))
    sound = (whole / 2**23).astype(np.float32)
    write = write_wav if name == "a.wav" else write_flac
    write(tmp_path / name, sound, 48_000, 24)
    np.testing.assert_array_equal(decode_audio(tmp_path / name).samples, sound)


def test_a_wav_says_where_an_editor_lays_it(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(100, np.float32), 48_000, 24, start=48_000 * 3600 + 7)
    data = (tmp_path / "a.wav").read_bytes()
    at = data.index(b"bext") + 8 + 256 + 32 + 32 + 10 + 8  # EBU Tech 3285: before TimeReference
    assert int.from_bytes(data[at : at + 8], "little") == 48_000 * 3600 + 7


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mov", "pcm_s24le"), ("mkv", "pcm_s24le"), ("mp4", "aac")]
)
def test_work_files_hold_pcm(tmp_path: Path, suffix: str, codec: str) -> None:
    write_sample(tmp_path / "a.mp4", TIMES, None)
    out = tmp_path / f"out.{suffix}"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2 * 48_000)).astype(np.float32)
    mux(tmp_path / "a.mp4", sound, 48_000, out, Muxing(pcm=True))
    assert probe(out).audio_codec == codec
    if codec != "aac":
        np.testing.assert_allclose(decode_audio(out).samples[:, :96_000], sound, atol=2**-22)


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_what_editors_cut_in_stays_as_it_is(tmp_path: Path, suffix: str) -> None:
    write_sample(tmp_path / "a.mp4", TIMES[:10], None)
    ffmpeg("-i", tmp_path / "a.mp4", "-c:v", "prores_ks", "-profile:v", "1", tmp_path / "a.mov")
    out = tmp_path / f"out.{suffix}"
    mux(tmp_path / "a.mov", clicks(1, [0.1]), 48_000, out, Muxing(pcm=True))
    assert [content for content, _ in packets(out)] == [
        content for content, _ in packets(tmp_path / "a.mov")
    ]
    assert (probe(out).video_codec, probe(out).audio_codec) == ("prores", "pcm_s24le")
    if suffix == "mov":
        with av.open(str(out)) as container:
            assert container.streams.video[0].codec_context.codec_tag == "apcs"


def test_sound_lies_beside_its_picture_in_a_long_file_too(tmp_path: Path) -> None:
    """A player that reads on need not look elsewhere; FFmpeg itself sorts the last 10 s alone."""
    write_sample(tmp_path / "a.mp4", [i / 4 for i in range(100)], None, Codecs(audio=None))
    mux(tmp_path / "a.mp4", clicks(25, [1], RATE), RATE, tmp_path / "out.mkv")
    last = {"video": 0.0, "audio": 0.0}
    with av.open(tmp_path / "out.mkv") as container:
        for packet in container.demux():
            if packet.dts is not None:
                last[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(last["video"] - last["audio"]) < 3, last
    assert min(last.values()) > 24
