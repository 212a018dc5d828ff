"""A zoo of bad and odd media, made by code.

Each kind has a maker, and what the front end must say of it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.pipeline.media.samples import Codecs, clicks, ffmpeg, write_sample

GOOD = "passed"
TIMES = [i / 30 for i in range(60)]
RATE = 48_000


@dataclass(frozen=True)
class Kind:
    """`said` is "passed", or a pattern of the reason or message with which the clip must end."""

    name: str
    make: Callable[[Path], None]
    said: str
    file: str = ""

    def write(self, folder: Path) -> Path:
        """Make it, in a file of its own name."""
        path = folder / (self.file or f"{self.name}.mp4")
        self.make(path)
        return path


def _sound(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    return clicks(seconds, [0.5, 1.0], rate) + noise


def _whole(path: Path, front: bool = True) -> None:
    write_sample(
        path.with_name("tmp.mp4"),
        TIMES,
        _sound(),
        Codecs(),
        **({"movflags": "+faststart"} if front else {}),
    )
    path.with_name("tmp.mp4").rename(path)


def _good(codecs: Codecs, suffix: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        partial = path.with_name(f"tmp.{suffix}")
        rate = codecs.rate
        channels = {"7.1": 8, "stereo": 2}.get(codecs.layout, 1)
        write_sample(
            partial,
            TIMES,
            np.tile(_sound(2, rate), (channels, 1)) if channels > 1 else _sound(2, rate),
            codecs,
        )
        partial.rename(path)

    return make


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


def _edited(
    edit: Callable[[bytearray], bytes | bytearray], front: bool = True
) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _whole(path, front)
        path.write_bytes(edit(bytearray(path.read_bytes())))

    return make


def _cut(share: float, front: bool = True) -> Callable[[Path], None]:
    return _edited(lambda content: content[: int(len(content) * share)], front)


def _cut_in(box: bytes, after: int = 8) -> Callable[[Path], None]:
    return _edited(lambda content: content[: content.index(box) + after])


def _header(box: bytes, offset: int, layout: str, *values: int) -> Callable[[bytearray], bytearray]:
    """Overwrite numbers at an offset behind every box of a name."""

    def edit(content: bytearray) -> bytearray:
        at = content.find(box)
        while at >= 0:
            struct.pack_into(layout, content, at + offset, *values)
            at = content.find(box, at + 4)
        return content

    return edit


def _first(edit: Callable[[bytearray], bytearray]) -> Callable[[bytearray], bytearray]:
    """The same for the picture's boxes alone, which come before the sound's."""

    def one(content: bytearray) -> bytearray:
        end = content.index(b"smhd")
        return edit(content[:end]) + content[end:]

    return one


def _flipped(content: bytearray) -> bytearray:
    at = content.index(b"mdat")
    for place in np.random.default_rng(1).integers(at + 100, len(content), 400):
        content[int(place)] ^= 0xFF
    return content


def _zeroed(content: bytearray) -> bytearray:
    middle = (content.index(b"mdat") + len(content)) // 2
    content[middle - 4000 : middle + 4000] = bytes(8000)
    return content


def _times(times: list[float], sound: np.ndarray, rate: int = RATE) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_sample(path.with_name("tmp.mp4"), times, sound, Codecs(rate=rate))
        path.with_name("tmp.mp4").rename(path)

    return make


def _by_ffmpeg(*arguments: str, suffix: str = "mp4") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        source, partial = path.with_name("source.mp4"), path.with_name(f"tmp.{suffix}")
        _whole(source)
        ffmpeg(*(str(source) if a == "SOURCE" else a for a in arguments), partial)
        source.unlink()
        partial.rename(path)

    return make


def _pcm(codec: str, value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        sound = _sound()
        sound[20_000] = value
        write_sample(path.with_name("tmp.mov"), TIMES, sound, Codecs(audio=codec))
        path.with_name("tmp.mov").rename(path)

    return make


def _huge(width: int, height: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        partial = path.with_name("tmp.avi")
        write_sample(
            partial,
            [0, 1 / 30],
            clicks(0.1, []),
            Codecs("rawvideo", "pcm_s16le", tick=Fraction(1, 30)),
        )
        content = bytearray(partial.read_bytes())
        struct.pack_into("<ii", content, content.index(b"strf") + 12, width, height)
        path.write_bytes(content)
        partial.unlink()

    return make


def _prefixed(path: Path) -> None:
    write_sample(path.with_name("tmp.ts"), TIMES, _sound(), Codecs())
    path.write_bytes(bytes(range(1, 71)) + path.with_name("tmp.ts").read_bytes())
    path.with_name("tmp.ts").unlink()


def _soundless(path: Path) -> None:
    """An MPEG program whose sound has lost its frame headers, and with them its rate.

    Found by fuzzing.
    """
    _good(Codecs("mpeg2video", "mp2", tick=Fraction(1, 30)), "mpg")(path)
    path.write_bytes(path.read_bytes().replace(b"\xff\xfc", b"\0\0").replace(b"\xff\xfd", b"\0\0"))


def _subtitles(path: Path) -> None:
    text = path.with_name("tmp.srt")
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nnothing to see\n")
    ffmpeg("-i", text, path.with_name("tmp.mkv"))
    path.with_name("tmp.mkv").rename(path)
    text.unlink()


def sound_with_cover(path: Path) -> None:
    """An mp3 file with a cover picture."""
    write_sample(path.with_name("tmp.mp4"), [0.0], None)
    cover = path.with_name("tmp.png")
    ffmpeg("-i", path.with_name("tmp.mp4"), "-frames:v", "1", cover)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=d=1",
        "-i",
        cover,
        "-map",
        "0",
        "-map",
        "1",
        path.with_name("tmp.mp3"),
    )
    path.with_name("tmp.mp3").rename(path)
    cover.unlink()
    path.with_name("tmp.mp4").unlink()


def _many_streams(path: Path) -> None:
    source = path.with_name("tmp.wav")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", source)
    ffmpeg("-i", source, *["-map", "0:0"] * 70, "-c", "copy", path.with_name("tmp.mkv"))
    path.with_name("tmp.mkv").rename(path)
    source.unlink()


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's name may hold 107 bytes only
    try:
        socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def _locked(path: Path) -> None:
    _whole(path)
    path.chmod(0)


def _nested(path: Path) -> None:
    content = b""
    for _ in range(20_000):
        content = struct.pack(">I", (len(content) + 8) & 0xFFFFFFFF) + b"moov" + content
    path.write_bytes(struct.pack(">I", 20) + b"ftypisom\0\0\2\0isom" + content)


_FTYP = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"
_HOUR = 3600
_CUT = "truncated|cannot be|no video stream"
_UNREADABLE = "Permission denied" if os.geteuid() else GOOD  # everything is readable for root

ZOO = (
    Kind("empty", _bytes(b""), "an empty file"),
    Kind("one-byte", _bytes(b"\0"), "not a media file"),
    Kind("html", _bytes(b"<!doctype html><title>404</title>"), "not a media file"),
    Kind("ffconcat", _bytes(b"ffconcat version 1.0\nfile good.mp4\n"), "not a media file"),
    Kind(
        "playlist",
        _bytes(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n"),
        "not a media file",
    ),
    Kind("png", _bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a media file"),
    Kind("zip", _bytes(b"PK\x03\x04" + bytes(100)), "not a media file"),
    Kind("gzip", _bytes(b"\x1f\x8b\x08" + bytes(100)), "not a media file"),
    Kind("zeros", _bytes(bytes(100_000)), "not a media file"),
    Kind("every-byte", _bytes(bytes(range(256)) * 400), "not a media file"),
    Kind("ftyp-alone", _bytes(_FTYP), "cannot be"),
    Kind("endless-box", _bytes(_FTYP + b"\xff\xff\xff\xffmoov" + bytes(1000)), "cannot be"),
    Kind("nested-boxes", _nested, "cannot be"),
    Kind("riff-alone", _bytes(b"RIFF\0\0\0\0AVI LIST"), "cannot be"),
    Kind("matroska-alone", _bytes(b"\x1a\x45\xdf\xa3" + b"\xff" * 50), "cannot be"),
    Kind("sync-bytes", _bytes(b"\x47" * 188 * 60), "cannot be"),
    Kind("cut-in-ftyp", _edited(lambda c: c[:12]), "cannot be"),
    Kind("cut-in-moov", _cut_in(b"mvhd"), "cannot be"),
    Kind("cut-in-trak", _cut_in(b"stsz", 40), _CUT),
    Kind("cut-at-mdat", _cut_in(b"mdat", 4), _CUT),
    Kind("cut-in-first-frame", _cut_in(b"mdat", 400), _CUT),
    Kind("cut-half", _cut(0.5), "truncated"),
    Kind("cut-near-end", _cut(0.98), "truncated"),
    Kind("cut-last-byte", _edited(lambda c: c[:-1]), "truncated"),
    Kind("moov-missing", _cut(0.7, front=False), "cannot be"),
    Kind("moov-cut", _cut(0.99, front=False), "cannot be|truncated|no "),
    Kind("mdat-missing", _edited(lambda c: c[: c.index(b"mdat") - 4]), "truncated"),
    Kind("flipped-bytes", _edited(_flipped), "damaged|cannot be|truncated"),
    Kind("zeroed-middle", _edited(_zeroed), "damaged|cannot be|truncated"),
    Kind("longer-than-it-is", _edited(_header(b"mdhd", 20, ">I", _HOUR * 90_000)), GOOD),
    Kind("no-duration", _edited(_header(b"mvhd", 20, ">I", 0)), GOOD),
    Kind("unknown-codec", _edited(lambda c: c.replace(b"avc1", b"zzzz")), "codec|cannot be"),
    Kind("rubbish-behind", _edited(lambda c: c + b"rubbish" * 1000), GOOD),
    Kind("twice", _edited(lambda c: c + c), GOOD),
    Kind("ts-with-rubbish-before", _prefixed, "not a media file"),
    Kind("16k-by-16k", _huge(16_000, 16_000), "over the limit"),
    Kind("thin", _huge(8_256, 64), "over the limit"),
    Kind(
        "1-by-1",
        _by_ffmpeg("-i", "SOURCE", "-vf", "scale=1:1", "-c:v", "ffv1", suffix="mkv"),
        "cannot be scaled",
    ),
    Kind("0-fps", _edited(_first(_header(b"stts", 16, ">I", 0))), "truncated"),
    Kind("240-fps", _times([i / 240 for i in range(480)], _sound()), GOOD),
    Kind("one-frame", _times([0.0], _sound()), GOOD),
    Kind("vfr", _times([0, 0.1, 0.12, 0.5, 0.51, 1.2, 1.21, 1.9], _sound()), GOOD),
    Kind("sparse", _times([4.0 * i for i in range(75)], _sound(300, 8000), 8000), GOOD),
    Kind("late", _times([1.5 + t for t in TIMES], _sound(3.5)), GOOD),
    Kind(
        "before-zero",
        _by_ffmpeg("-i", "SOURCE", "-c", "copy", "-output_ts_offset", "-0.7", suffix="mkv"),
        GOOD,
    ),
    Kind("rotated", _by_ffmpeg("-display_rotation", "90", "-i", "SOURCE", "-c", "copy"), GOOD),
    Kind("no-audio", _by_ffmpeg("-i", "SOURCE", "-c", "copy", "-an"), "no audio stream"),
    Kind("no-video", _by_ffmpeg("-i", "SOURCE", "-c", "copy", "-vn"), "no video stream"),
    Kind("cover-alone", sound_with_cover, "no video stream"),
    Kind("subtitles-alone", _subtitles, "no video stream"),
    Kind("silent", _times(TIMES, np.zeros(2 * RATE, np.float32)), "silent throughout"),
    Kind("short-sound", _times(TIMES, _sound(0.2)), GOOD),
    Kind("7.1", _good(Codecs(audio="pcm_s16le", layout="7.1"), "mov"), GOOD),
    Kind("8-bit", _good(Codecs(audio="pcm_u8", rate=8000), "avi"), GOOD),
    Kind("192-khz", _good(Codecs(audio="pcm_s16le", rate=192_000), "mov"), GOOD),
    Kind("no-rate", _soundless, "its sound cannot be decoded|no sound"),
    Kind("nan", _pcm("pcm_f32le", np.nan), "not numbers"),
    Kind("infinite", _pcm("pcm_f32le", np.inf), "not numbers"),
    Kind("70-streams", _many_streams, "70 streams"),
    Kind("webm", _good(Codecs("libvpx", "libopus"), "webm"), GOOD),
    Kind("flv", _good(Codecs(rate=44_100), "flv"), GOOD),
    Kind("emoji", _whole, GOOD, "\N{FACE WITH TEARS OF JOY}.mp4"),
    Kind("newline", _whole, GOOD, "two\nlines.mp4"),
    Kind("quotes", _whole, GOOD, "q'\"`$(x).mp4"),
    Kind("dash", _whole, GOOD, "-i.mp4"),
    Kind("percent", _whole, GOOD, "100%d %03d.mp4"),
    Kind("protocol", _whole, GOOD, "concat:a|b.mp4"),
    Kind("pipe", os.mkfifo, "not a regular file"),
    Kind("socket", _socket, "not a regular file"),
    Kind("device", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    Kind("folder", lambda path: path.mkdir(), "a folder|not a regular file"),
    Kind("round", lambda path: path.symlink_to(path.name), "symbolic links"),
    Kind("dangling", lambda path: path.symlink_to("gone"), "No such file"),
    Kind("locked", _locked, _UNREADABLE),
)
