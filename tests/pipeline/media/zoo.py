"""A zoo of bad and odd media, made by code.

Each kind has a maker, and what the front end must say of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.pipeline.media import makers
from tests.pipeline.media.samples import Codecs

GOOD = "passed"


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


_FTYP = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"
_HOUR = 3600
_CUT = "truncated|cannot be|no video stream"
_UNREADABLE = "Permission denied" if os.geteuid() else GOOD  # everything is readable for root

ZOO = (
    Kind("empty", makers.holding(b""), "an empty file"),
    Kind("one-byte", makers.holding(b"\0"), "not a media file"),
    Kind("html", makers.holding(b"<!doctype html><title>404</title>"), "not a media file"),
    Kind("ffconcat", makers.holding(b"ffconcat version 1.0\nfile good.mp4\n"), "not a media file"),
    Kind(
        "playlist",
        makers.holding(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n"),
        "not a media file",
    ),
    Kind("png", makers.holding(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a media file"),
    Kind("zip", makers.holding(b"PK\x03\x04" + bytes(100)), "not a media file"),
    Kind("gzip", makers.holding(b"\x1f\x8b\x08" + bytes(100)), "not a media file"),
    Kind("zeros", makers.holding(bytes(100_000)), "not a media file"),
    Kind("every-byte", makers.holding(bytes(range(256)) * 400), "not a media file"),
    Kind("ftyp-alone", makers.holding(_FTYP), "cannot be"),
    Kind("endless-box", makers.holding(_FTYP + b"\xff\xff\xff\xffmoov" + bytes(1000)), "cannot be"),
    Kind("nested-boxes", makers.nested, "cannot be"),
    Kind("riff-alone", makers.holding(b"RIFF\0\0\0\0AVI LIST"), "cannot be"),
    Kind("matroska-alone", makers.holding(b"\x1a\x45\xdf\xa3" + b"\xff" * 50), "cannot be"),
    Kind("sync-bytes", makers.holding(b"\x47" * 188 * 60), "cannot be"),
    Kind("cut-in-ftyp", makers.edited(lambda c: c[:12]), "cannot be"),
    Kind("cut-in-moov", makers.cut_in(b"mvhd"), "cannot be"),
    Kind("cut-in-trak", makers.cut_in(b"stsz", 40), _CUT),
    Kind("cut-at-mdat", makers.cut_in(b"mdat", 4), _CUT),
    Kind("cut-in-first-frame", makers.cut_in(b"mdat", 400), _CUT),
    Kind("cut-half", makers.cut(0.5), "truncated"),
    Kind("cut-near-end", makers.cut(0.98), "truncated"),
    Kind("cut-last-byte", makers.edited(lambda c: c[:-1]), "truncated"),
    Kind("moov-missing", makers.cut(0.7, front=False), "cannot be"),
    Kind("moov-cut", makers.cut(0.99, front=False), "cannot be|truncated|no "),
    Kind("mdat-missing", makers.edited(lambda c: c[: c.index(b"mdat") - 4]), "truncated"),
    Kind("flipped-bytes", makers.edited(makers.flipped), "damaged|cannot be|truncated"),
    Kind("zeroed-middle", makers.edited(makers.zeroed), "damaged|cannot be|truncated"),
    Kind(
        "longer-than-it-is", makers.edited(makers.header(b"mdhd", 20, ">I", _HOUR * 90_000)), GOOD
    ),
    Kind("no-duration", makers.edited(makers.header(b"mvhd", 20, ">I", 0)), GOOD),
    Kind("unknown-codec", makers.edited(lambda c: c.replace(b"avc1", b"zzzz")), "codec|cannot be"),
    Kind("rubbish-behind", makers.edited(lambda c: c + b"rubbish" * 1000), GOOD),
    Kind("twice", makers.edited(lambda c: c + c), GOOD),
    Kind("ts-with-rubbish-before", makers.prefixed, "not a media file"),
    Kind("16k-by-16k", makers.huge(16_000, 16_000), "over the limit"),
    Kind("thin", makers.huge(8_256, 64), "over the limit"),
    Kind(
        "1-by-1",
        makers.by_ffmpeg("-i", "SOURCE", "-vf", "scale=1:1", "-c:v", "ffv1", suffix="mkv"),
        "cannot be scaled",
    ),
    Kind("0-fps", makers.edited(makers.first(makers.header(b"stts", 16, ">I", 0))), "truncated"),
    Kind("240-fps", makers.timed([i / 240 for i in range(480)], makers.sound()), GOOD),
    Kind("one-frame", makers.timed([0.0], makers.sound()), GOOD),
    Kind("vfr", makers.timed([0, 0.1, 0.12, 0.5, 0.51, 1.2, 1.21, 1.9], makers.sound()), GOOD),
    Kind("sparse", makers.timed([4.0 * i for i in range(75)], makers.sound(300, 8000), 8000), GOOD),
    Kind("late", makers.timed([1.5 + t for t in makers.TIMES], makers.sound(3.5)), GOOD),
    Kind(
        "before-zero",
        makers.by_ffmpeg("-i", "SOURCE", "-c", "copy", "-output_ts_offset", "-0.7", suffix="mkv"),
        GOOD,
    ),
    Kind(
        "rotated", makers.by_ffmpeg("-display_rotation", "90", "-i", "SOURCE", "-c", "copy"), GOOD
    ),
    Kind("no-audio", makers.by_ffmpeg("-i", "SOURCE", "-c", "copy", "-an"), "no audio stream"),
    Kind("no-video", makers.by_ffmpeg("-i", "SOURCE", "-c", "copy", "-vn"), "no video stream"),
    Kind("cover-alone", makers.sound_with_cover, "no video stream"),
    Kind("subtitles-alone", makers.subtitles, "no video stream"),
    Kind(
        "silent",
        makers.timed(makers.TIMES, np.zeros(2 * makers.RATE, np.float32)),
        "silent throughout",
    ),
    Kind("short-sound", makers.timed(makers.TIMES, makers.sound(0.2)), GOOD),
    Kind("7.1", makers.good(Codecs(audio="pcm_s16le", layout="7.1"), "mov"), GOOD),
    Kind("8-bit", makers.good(Codecs(audio="pcm_u8", rate=8000), "avi"), GOOD),
    Kind("192-khz", makers.good(Codecs(audio="pcm_s16le", rate=192_000), "mov"), GOOD),
    Kind("no-rate", makers.soundless, "its sound cannot be decoded|no sound"),
    Kind("nan", makers.pcm("pcm_f32le", np.nan), "not numbers"),
    Kind("infinite", makers.pcm("pcm_f32le", np.inf), "not numbers"),
    Kind("70-streams", makers.many_streams, "70 streams"),
    Kind("webm", makers.good(Codecs("libvpx", "libopus"), "webm"), GOOD),
    Kind("flv", makers.good(Codecs(rate=44_100), "flv"), GOOD),
    Kind("emoji", makers.whole, GOOD, "\N{FACE WITH TEARS OF JOY}.mp4"),
    Kind("newline", makers.whole, GOOD, "two\nlines.mp4"),
    Kind("quotes", makers.whole, GOOD, "q'\"`$(x).mp4"),
    Kind("dash", makers.whole, GOOD, "-i.mp4"),
    Kind("percent", makers.whole, GOOD, "100%d %03d.mp4"),
    Kind("protocol", makers.whole, GOOD, "concat:a|b.mp4"),
    Kind("pipe", os.mkfifo, "not a regular file"),
    Kind("socket", makers.unix_socket, "not a regular file"),
    Kind("device", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    Kind("folder", lambda path: path.mkdir(), "a folder|not a regular file"),
    Kind("round", lambda path: path.symlink_to(path.name), "symbolic links"),
    Kind("dangling", lambda path: path.symlink_to("gone"), "No such file"),
    Kind("locked", makers.locked, _UNREADABLE),
)
