"""Sound files, and new sound under an old picture."""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr
from av.container import OutputContainer
from av.stream import Stream

from model.types import Audio
from pipeline.media.clock import duration_of, picture_start
from pipeline.media.copying import MUXERS, add_others, add_picture
from pipeline.media.errors import MediaError, media_errors
from pipeline.media.opening import open_media, video_stream

_SOUND_CODECS = {".mp4": "aac", ".m4v": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}
_OPUS_RATE = 48_000
_LEADING = 64  # packets at the start that may lack a decoding time


@dataclass(frozen=True)
class Muxing:
    """How a new sound goes into a container."""

    keep_audio: bool = False  # keep the video's own sound tracks, behind the new one
    pcm: bool = False  # as PCM of 24 bits where the container holds it (.mov, .mkv), not as AAC


def write_wav(
    path: Path, samples: Audio, sample_rate: int, bits: int = 16, start: int | None = None
) -> None:
    """Write samples [n] or [channels, n] in -1..1 as PCM of 16 or 24 bits; raises MediaError.

    `start`, in samples since midnight, is where an editor lays the sound (EBU Tech 3285).
    """
    words = {} if start is None else {"time_reference": str(start)}
    _write_sound(path, samples, sample_rate, ("wav", f"pcm_s{bits}le"), words)


def write_flac(path: Path, samples: Audio, sample_rate: int, bits: int = 16) -> None:
    """Write samples [n] or [channels, n] in -1..1 as FLAC of 16 or 24 bits; raises MediaError."""
    _write_sound(path, samples, sample_rate, ("flac", "flac" if bits == 16 else "flac24"), {})


def mux(
    video: Path, samples: Audio, sample_rate: int, out: Path, how: Muxing = Muxing()
) -> list[str]:
    """Write `out` (.mp4, .mov, .mkv, .webm): the picture of `video`, bit for bit, with this sound.

    Samples are [n] or [1 or 2, n]; sound 0 meets the first picture, and is cropped where the
    picture ends. Subtitles, chapters, titles, dates and timecode go along; returned is a line for
    each that does not. `out` appears only when it is whole, and may be `video` itself. Raises
    MediaError if `video` cannot be read, or its picture does not fit into that container.
    """
    codec = _SOUND_CODECS.get(out.suffix.lower())
    if codec is None:
        names = ", ".join(_SOUND_CODECS)
        raise MediaError(out, f"cannot be written: the name must end in one of {names}")
    codec = "pcm_s24le" if how.pcm and out.suffix.lower() in (".mov", ".mkv") else codec
    with open_media(video) as source, whole(out) as partial:
        stream = video_stream(source)
        if stream is None:
            raise MediaError(video, "no video stream")
        seconds, zero = duration_of(source, stream), picture_start(video, source) or 0.0
        sound = _channels_first(out, samples)
        sound = sound if seconds is None else sound[:, : round(seconds * sample_rate)]
        if codec == "libopus" and sample_rate != _OPUS_RATE:
            sound, sample_rate = soxr.resample(sound.T, sample_rate, _OPUS_RATE).T, _OPUS_RATE
        exact = {"fflags": "bitexact"}  # the same sound, the same bytes: no random ids of Matroska
        with (
            media_errors(out, "cannot be written"),
            av.open(
                str(partial), "w", format=MUXERS[out.suffix.lower()], container_options=exact
            ) as target,
        ):
            tracks: dict[int, Stream] = {stream.index: add_picture(target, stream, out)}
            track = _sound_stream(target, codec, sample_rate, len(sound))
            copies, left_out = add_others(source, target, out, how.keep_audio)
            tracks |= copies
            packets = source.demux(*(source.streams[index] for index in tracks))
            moved = _from_zero(_with_decoding_times(stream, packets), zero)
            _interleave(target, tracks, moved, _encoded(track, sound, sample_rate))
    return left_out


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A name to write under; on success the file takes its place, on failure nothing is left."""
    name = f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.partial"  # never too long
    partial = path.with_name(name)
    try:
        with media_errors(path, "cannot be written"):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _channels_first(path: Path, samples: Audio) -> Audio:
    """Samples -> float32 [channels, n] in -1..1: what goes beyond is made softer, and never cut."""
    sound = np.atleast_2d(np.asarray(samples, np.float32))
    if sound.ndim != 2 or len(sound) not in (1, 2):
        shape = list(samples.shape)
        raise MediaError(path, f"cannot be written: sound must be [n] or [1 or 2, n], not {shape}")
    if not np.isfinite(sound).all():
        raise MediaError(path, "cannot be written: the sound holds samples that are not numbers")
    return sound / np.float32(max(1.0, float(np.abs(sound).max(initial=0.0))))


def _sound_stream(
    target: OutputContainer, codec: str, sample_rate: int, channels: int
) -> av.AudioStream:
    stream = target.add_stream(
        codec, rate=sample_rate, layout="mono" if channels == 1 else "stereo"
    )
    assert isinstance(stream, av.AudioStream)
    if codec in ("aac", "libopus"):
        stream.bit_rate = 96_000 * channels
    if codec == "aac":
        # a fraction of twoloop's time, and nearer at this rate
        stream.options = {"aac_coder": "fast"}
    return stream


def _encoded(
    stream: av.AudioStream, sound: Audio, sample_rate: int
) -> Iterator[av.Packet[av.AudioStream]]:
    """Encode samples [channels, n] second by second."""
    layout = "mono" if len(sound) == 1 else "stereo"
    for start in range(0, sound.shape[1], sample_rate):
        piece = np.ascontiguousarray(sound[:, start : start + sample_rate])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = sample_rate, start
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _write_sound(
    path: Path, samples: Audio, sample_rate: int, kind: tuple[str, str], words: dict[str, str]
) -> None:
    """Write a file of a kind (muxer, codec), with these words in its header."""
    sound, (muxer, codec) = _channels_first(path, samples), kind
    options = {"write_bext": "1"} if words else {}
    with whole(path) as partial, av.open(str(partial), "w", muxer, options) as target:
        target.metadata.update(words)
        stream = _sound_stream(target, codec.removesuffix("24"), sample_rate, len(sound))
        if codec == "flac24":
            stream.codec_context.format = "s32"  # of which the encoder keeps 24 bits
        for packet in _encoded(stream, sound, sample_rate):
            target.mux(packet)


def _from_zero(packets: Iterator[av.Packet[Stream]], zero: float) -> Iterator[av.Packet[Stream]]:
    """The packets, moved to start at 0; those of other tracks that are over before it are not."""
    for packet in packets:
        shift = round(zero / packet.time_base)
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.stream.type == "video" or (packet.pts is not None and packet.pts >= 0):
            yield packet


def _interleave(
    target: OutputContainer,
    tracks: Mapping[int, Stream],
    packets: Iterator[av.Packet[Stream]],
    sounds: Iterator[av.Packet[av.AudioStream]],
) -> None:
    """Write the packets of the source, and the new sound's between them as their time comes."""
    sound = next(sounds, None)
    for packet in packets:
        due = (packet.dts or 0) * packet.time_base
        while sound is not None and (sound.pts or 0) * sound.time_base <= due:
            target.mux(sound)
            sound = next(sounds, None)
        packet.stream = tracks[packet.stream.index]
        target.mux(packet)
    while sound is not None:
        target.mux(sound)
        sound = next(sounds, None)


def _with_decoding_times(
    stream: av.VideoStream, packets: Iterator[av.Packet[Stream]]
) -> Iterator[av.Packet[Stream]]:
    """The packets; where the picture's first have no decoding time (Matroska), they get one."""
    rate, base = stream.average_rate or 25, stream.time_base or Fraction(1, 1000)
    step = max(1, round(1 / (rate * base)))
    waiting: list[av.Packet[Stream]] = []
    for packet in packets:
        if packet.size == 0:  # the end
            continue
        if packet.stream.index != stream.index:
            yield packet
            continue
        if packet.dts is None and len(waiting) < _LEADING:
            waiting.append(packet)
            continue
        yield from _earlier(waiting, packet.dts, step)
        waiting = []
        yield packet
    yield from _earlier(waiting, None, step)


def _earlier(
    packets: list[av.Packet[Stream]], before: int | None, step: int
) -> list[av.Packet[Stream]]:
    """Give packets rising decoding times before `before`, none after it is shown."""
    due = before if before is not None else max((p.pts or 0 for p in packets), default=0) + step
    for packet in reversed(packets):
        due -= step
        due = due if packet.pts is None else min(due, packet.pts)
        packet.dts = due
    return packets
