"""Opening a file that cannot be trusted: a regular one of a known format, within limits."""

import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition, Stream

from pipeline.media.errors import MediaError, media_errors

# The library writes decoder complaints to stderr for every broken file; they come back as errors
# anyway.
av.logging.set_level(av.logging.PANIC)

_HEAD = 4096  # bytes read to tell the format


# What is more is refused by its header, before anything is decoded.
MAX_SIDE, MAX_PIXELS = 8192, 8192 * 4352
_MAX_CHANNELS, _MAX_SAMPLE_RATE, _MAX_STREAMS = 64, 768_000, 64


def _at(offset: int, *magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: any(head[offset : offset + len(magic)] == magic for magic in magics)


def _riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == kind


def _transport_stream(offset: int, size: int) -> Callable[[bytes], bool]:
    return lambda head: all(
        head[at : at + 1] == b"\x47" for at in range(offset, min(len(head), 5 * size), size)
    )


# Formats are told by content and then forced: left to guess, the library follows playlists and
# scripts (ffconcat, HLS) that open other files, whatever the name says.
_FORMATS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("mov", _at(4, *b"ftyp moov mdat free wide skip pnot styp sidx".split())),
    ("matroska", _at(0, b"\x1a\x45\xdf\xa3")),
    ("avi", _riff(b"AVI ")),
    ("wav", _riff(b"WAVE")),
    ("flv", _at(0, b"FLV\x01")),
    ("asf", _at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
    ("ogg", _at(0, b"OggS")),
    ("flac", _at(0, b"fLaC")),
    ("mpeg", _at(0, b"\x00\x00\x01\xba")),
    ("aiff", _at(0, b"FORM")),
    ("caf", _at(0, b"caff")),
    ("mp3", _at(0, b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")),
    ("aac", _at(0, b"\xff\xf1", b"\xff\xf9")),
    ("mpegts", _transport_stream(0, 188)),
    ("mpegts", _transport_stream(4, 192)),
)


def sniff(path: Path) -> str | None:
    """The media format of a file by its first bytes, None if it is no known one.

    Raises MediaError for what is not a readable regular file, without waiting on a pipe.
    """
    head = _head(path)
    return next((name for name, matches in _FORMATS if len(head) >= 8 and matches(head)), None)


def _head(path: Path) -> bytes:
    with media_errors(path, "cannot be opened"):
        mode = path.stat().st_mode  # follows links, and says so when they go round
        if not stat.S_ISREG(mode):
            kind = "a folder and not a media file" if stat.S_ISDIR(mode) else "not a regular file"
            raise MediaError(path, kind)
        with path.open("rb") as file:
            return file.read(_HEAD)


@contextmanager
def open_media(
    path: Path, doing: str = "cannot be read", *, picture: bool = True
) -> Generator[InputContainer]:
    """Open a media file; what the decoders raise inside the block becomes a MediaError too.

    With no `picture`, an mp4 is opened without decoding one, which is most of what opening costs:
    its pixel format is then unknown. Raises MediaError (one line, naming the file) for anything
    that is not a whole media file within the limits.
    """
    format_name = sniff(path)
    if format_name is None:
        size = path.stat().st_size
        unknown = "not a media file of a known format"
        raise MediaError(path, unknown if size else "an empty file (0 bytes)")
    with media_errors(path, doing):
        # An absolute path is never taken for a URL or a protocol such as `concat:` or `subfile,`.
        name = str(path.absolute())
        options = {"max_pixels": str(MAX_PIXELS)}  # holds while the header is examined too
        if not picture and format_name == "mov":  # whose header says all that is needed
            options["skip_frame"] = "all"
        guards = {"protocol_whitelist": "file"}
        with av.open(
            name, "r", format_name, options=options, container_options=guards,
            metadata_errors="replace",
        ) as container:  # fmt: skip
            _check_limits(path, container)
            _check_index(path, container)
            yield container


def _check_limits(path: Path, container: InputContainer) -> None:
    if not len(container.streams):
        raise MediaError(path, "cannot be used: its header speaks of no stream at all")
    if len(container.streams) > _MAX_STREAMS:
        raise MediaError(path, f"{len(container.streams)} streams, more than {_MAX_STREAMS}")
    video = video_stream(container)
    if video is not None and has_decoder(video):
        width, height = video.width, video.height
        if width * height == 0:  # what the library makes of a size that it was told to refuse
            raise MediaError(path, "a picture that has no size, or one over the limit")
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise MediaError(path, f"a picture of {width} x {height} pixels is over the limit")
    for audio in container.streams.audio:
        channels, rate = (audio.channels, audio.sample_rate) if has_decoder(audio) else (0, 0)
        if channels > _MAX_CHANNELS or rate > _MAX_SAMPLE_RATE:
            raise MediaError(path, f"{channels} channels at {rate} Hz are over the limit")


def _check_index(path: Path, container: InputContainer) -> None:
    """A file that was cut behind its index opens and decodes without a word: the index tells."""
    if container.format.name != "mov":
        return
    size = path.stat().st_size
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries) == 0:
            continue
        end = entries[-1].pos + entries[-1].size
        if end > size:
            due = f"{end} or more that its index speaks of"
            raise MediaError(path, f"truncated: {size} bytes of the {due}")


def has_decoder(stream: Stream) -> bool:
    """Whether the library can decode the stream at all."""
    return getattr(stream, "codec_context", None) is not None


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first moving picture; a cover picture in a sound file is none."""
    streams = container.streams.video
    return next((s for s in streams if not s.disposition & Disposition.attached_pic), None)


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The first sound track."""
    return next(iter(container.streams.audio), None)


def forbid_large_pictures(stream: av.VideoStream) -> None:
    """Hold the decoder to the limit too: a stream may announce a larger picture in its middle."""
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
