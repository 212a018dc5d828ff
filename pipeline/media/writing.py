"""Sound files, and new sound under an old picture."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soxr
from av.container import InputContainer, OutputContainer

from model.types import Audio
from pipeline.media.clock import duration_of, picture_start
from pipeline.media.errors import MediaError, media_errors
from pipeline.media.opening import open_media, video_stream

_SOUND_CODECS = {".mp4": "aac", ".m4v": "aac", ".mov": "aac", ".mkv": "aac", ".webm": "libopus"}
_OPUS_RATE = 48_000
_LEADING = 64  # packets at the start that may lack a decoding time


def write_wav(path: Path, samples: Audio, sample_rate: int) -> None:
    """Write samples [n] or [channels, n] in -1..1 as 16-bit PCM; raises MediaError."""
    _write_sound(path, samples, sample_rate, "wav", "pcm_s16le")


def write_flac(path: Path, samples: Audio, sample_rate: int) -> None:
    """Write samples [n] or [channels, n] in -1..1 as 16-bit FLAC; raises MediaError."""
    _write_sound(path, samples, sample_rate, "flac", "flac")


def mux(video: Path, samples: Audio, sample_rate: int, out: Path) -> None:
    """Write `out` (.mp4, .mov, .mkv, .webm): the picture of `video`, bit for bit, with this sound.

    Samples are [n] or [1 or 2, n]; sound 0 meets the first picture, and is cropped where the
    picture ends. `out` appears only when it is whole, and may be `video` itself. Raises MediaError
    if `video` cannot be read, or its picture does not fit into that container.
    """
    codec = _SOUND_CODECS.get(out.suffix.lower())
    if codec is None:
        names = ", ".join(_SOUND_CODECS)
        raise MediaError(out, f"cannot be written: the name must end in one of {names}")
    with open_media(video) as source, _whole(out) as partial:
        stream = video_stream(source)
        if stream is None:
            raise MediaError(video, "no video stream")
        seconds = duration_of(source, stream)
        shift = round((picture_start(video, source) or 0) / (stream.time_base or 1))
        sound = _channels_first(out, samples)
        sound = sound if seconds is None else sound[:, : round(seconds * sample_rate)]
        if codec == "libopus" and sample_rate != _OPUS_RATE:
            sound, sample_rate = soxr.resample(sound.T, sample_rate, _OPUS_RATE).T, _OPUS_RATE
        exact = {"fflags": "bitexact"}  # the same sound, the same bytes: no random ids of Matroska
        with (
            media_errors(out, "cannot be written"),
            av.open(str(partial), "w", format=_muxer(out), container_options=exact) as target,
        ):
            picture = target.add_stream_from_template(stream)
            track = _sound_stream(target, codec, sample_rate, len(sound))
            pictures = _from_zero(_with_decoding_times(stream, source), shift)
            _interleave(target, picture, pictures, _encoded(track, sound, sample_rate))


def _muxer(out: Path) -> str:
    return {".mkv": "matroska", ".webm": "webm", ".mov": "mov"}.get(out.suffix.lower(), "mp4")


@contextmanager
def _whole(path: Path) -> Generator[Path]:
    """A name to write under; on success the file takes its place, on failure nothing is left."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with media_errors(path, "cannot be written"):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _channels_first(path: Path, samples: Audio) -> Audio:
    """Samples -> float32 [channels, n] in -1..1."""
    sound = np.atleast_2d(np.asarray(samples, np.float32))
    if sound.ndim != 2 or len(sound) not in (1, 2):
        shape = list(samples.shape)
        raise MediaError(path, f"cannot be written: sound must be [n] or [1 or 2, n], not {shape}")
    if not np.isfinite(sound).all():
        raise MediaError(path, "cannot be written: the sound holds samples that are not numbers")
    return np.clip(sound, -1, 1)


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


def _write_sound(path: Path, samples: Audio, sample_rate: int, muxer: str, codec: str) -> None:
    sound = _channels_first(path, samples)
    with _whole(path) as partial, av.open(str(partial), "w", format=muxer) as target:
        stream = _sound_stream(target, codec, sample_rate, len(sound))
        for packet in _encoded(stream, sound, sample_rate):
            target.mux(packet)


def _from_zero(
    packets: Iterator[av.Packet[av.VideoStream]], shift: int
) -> Iterator[av.Packet[av.VideoStream]]:
    """The packets, moved to start at 0."""
    for packet in packets:
        packet.dts = (packet.dts or 0) - shift
        packet.pts = None if packet.pts is None else packet.pts - shift
        yield packet


def _interleave(
    target: OutputContainer,
    picture: av.VideoStream,
    pictures: Iterator[av.Packet[av.VideoStream]],
    sounds: Iterator[av.Packet[av.AudioStream]],
) -> None:
    """Write the picture's packets, and the sound's between them as their time comes."""
    sound = next(sounds, None)
    for packet in pictures:
        while sound is not None and _seconds(sound) <= (packet.dts or 0) * packet.time_base:
            target.mux(sound)
            sound = next(sounds, None)
        packet.stream = picture
        target.mux(packet)
    while sound is not None:
        target.mux(sound)
        sound = next(sounds, None)


def _with_decoding_times(
    stream: av.VideoStream, source: InputContainer
) -> Iterator[av.Packet[av.VideoStream]]:
    """The stream's packets; where the first have no decoding time (Matroska), they get one."""
    rate, base = stream.average_rate or 25, stream.time_base or Fraction(1, 1000)
    step = max(1, round(1 / (rate * base)))
    waiting: list[av.Packet[av.VideoStream]] = []
    for packet in source.demux(stream):
        if packet.size == 0:  # the end
            continue
        if packet.dts is None and len(waiting) < _LEADING:
            waiting.append(packet)
            continue
        yield from _earlier(waiting, packet.dts, step)
        waiting = []
        yield packet
    yield from _earlier(waiting, None, step)


def _earlier(
    packets: list[av.Packet[av.VideoStream]], before: int | None, step: int
) -> list[av.Packet[av.VideoStream]]:
    """Give packets rising decoding times before `before`, none after it is shown."""
    due = before if before is not None else max((p.pts or 0 for p in packets), default=0) + step
    for packet in reversed(packets):
        due -= step
        due = due if packet.pts is None else min(due, packet.pts)
        packet.dts = due
    return packets


def _seconds(packet: av.Packet[av.AudioStream]) -> float:
    return float((packet.pts or 0) * packet.time_base)
