"""How the media of the zoo are made: whole files, and what is cut, overwritten or odd."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.pipeline.media.samples import Codecs, clicks, ffmpeg, write_sample

TIMES = [i / 30 for i in range(60)]
RATE = 48_000


def sound(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    return clicks(seconds, [0.5, 1.0], rate) + noise


def whole(path: Path, front: bool = True) -> None:
    write_sample(
        path.with_name("tmp.mp4"),
        TIMES,
        sound(),
        Codecs(),
        **({"movflags": "+faststart"} if front else {}),
    )
    path.with_name("tmp.mp4").rename(path)


def good(codecs: Codecs, suffix: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        partial = path.with_name(f"tmp.{suffix}")
        rate = codecs.rate
        channels = {"7.1": 8, "stereo": 2}.get(codecs.layout, 1)
        write_sample(
            partial,
            TIMES,
            np.tile(sound(2, rate), (channels, 1)) if channels > 1 else sound(2, rate),
            codecs,
        )
        partial.rename(path)

    return make


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content), None)[1]


def edited(
    edit: Callable[[bytearray], bytes | bytearray], front: bool = True
) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole(path, front)
        path.write_bytes(edit(bytearray(path.read_bytes())))

    return make


def cut(share: float, front: bool = True) -> Callable[[Path], None]:
    return edited(lambda content: content[: int(len(content) * share)], front)


def cut_in(box: bytes, after: int = 8) -> Callable[[Path], None]:
    return edited(lambda content: content[: content.index(box) + after])


def header(box: bytes, offset: int, layout: str, *values: int) -> Callable[[bytearray], bytearray]:
    """Overwrite numbers at an offset behind every box of a name."""

    def edit(content: bytearray) -> bytearray:
        at = content.find(box)
        while at >= 0:
            struct.pack_into(layout, content, at + offset, *values)
            at = content.find(box, at + 4)
        return content

    return edit


def first(edit: Callable[[bytearray], bytearray]) -> Callable[[bytearray], bytearray]:
    """The same for the picture's boxes alone, which come before the sound's."""

    def one(content: bytearray) -> bytearray:
        end = content.index(b"smhd")
        return edit(content[:end]) + content[end:]

    return one


def flipped(content: bytearray) -> bytearray:
    at = content.index(b"mdat")
    for place in np.random.default_rng(1).integers(at + 100, len(content), 400):
        content[int(place)] ^= 0xFF
    return content


def zeroed(content: bytearray) -> bytearray:
    middle = (content.index(b"mdat") + len(content)) // 2
    content[middle - 4000 : middle + 4000] = bytes(8000)
    return content


def timed(times: list[float], sound: np.ndarray, rate: int = RATE) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_sample(path.with_name("tmp.mp4"), times, sound, Codecs(rate=rate))
        path.with_name("tmp.mp4").rename(path)

    return make


def by_ffmpeg(*arguments: str, suffix: str = "mp4") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        source, partial = path.with_name("source.mp4"), path.with_name(f"tmp.{suffix}")
        whole(source)
        ffmpeg(*(str(source) if a == "SOURCE" else a for a in arguments), partial)
        source.unlink()
        partial.rename(path)

    return make


def pcm(codec: str, value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        wave = sound()
        wave[20_000] = value
        write_sample(path.with_name("tmp.mov"), TIMES, wave, Codecs(audio=codec))
        path.with_name("tmp.mov").rename(path)

    return make


def huge(width: int, height: int) -> Callable[[Path], None]:
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


def prefixed(path: Path) -> None:
    write_sample(path.with_name("tmp.ts"), TIMES, sound(), Codecs())
    path.write_bytes(bytes(range(1, 71)) + path.with_name("tmp.ts").read_bytes())
    path.with_name("tmp.ts").unlink()


def soundless(path: Path) -> None:
    """An MPEG program whose sound has lost its frame headers, and with them its rate.

    Found by fuzzing.
    """
    good(Codecs("mpeg2video", "mp2", tick=Fraction(1, 30)), "mpg")(path)
    path.write_bytes(path.read_bytes().replace(b"\xff\xfc", b"\0\0").replace(b"\xff\xfd", b"\0\0"))


def subtitles(path: Path) -> None:
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


def many_streams(path: Path) -> None:
    source = path.with_name("tmp.wav")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", source)
    ffmpeg("-i", source, *["-map", "0:0"] * 70, "-c", "copy", path.with_name("tmp.mkv"))
    path.with_name("tmp.mkv").rename(path)
    source.unlink()


def unix_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)  # a socket's name may hold 107 bytes only
    try:
        socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def locked(path: Path) -> None:
    whole(path)
    path.chmod(0)


def nested(path: Path) -> None:
    content = b""
    for _ in range(20_000):
        content = struct.pack(">I", (len(content) + 8) & 0xFFFFFFFF) + b"moov" + content
    path.write_bytes(struct.pack(">I", 20) + b"ftypisom\0\0\2\0isom" + content)
