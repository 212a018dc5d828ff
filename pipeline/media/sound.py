"""Sound on the picture's clock: decoded, mixed by the plain mean, resampled, cropped, padded."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soxr
from av.container import InputContainer
from av.stream import Discard

from model.types import Audio
from pipeline.media.clock import check_whole, picture_start, seconds_of, start_of
from pipeline.media.errors import MediaError
from pipeline.media.opening import audio_stream, has_decoder, open_media, video_stream

Layout = Literal["mono", "stereo"]

MAX_SECONDS = 600.0  # what is read of a file at most, unless the caller asks for less
_MANY_PLANES = 8
_GATHERED = 1 << 14  # samples that become an array together: few enough to stay in the cache
_GAP = 0.05  # seconds by which a frame's timestamp may differ from where the samples before it end


@dataclass(frozen=True)
class Sound:
    """Samples float32 [channels, n] at their own rate; time 0 is where the picture starts."""

    samples: Audio
    sample_rate: int


def read_audio(
    path: Path,
    sample_rate: int,
    layout: Layout = "mono",
    max_seconds: float = MAX_SECONDS,
    *,
    exact: bool = False,
) -> Audio:
    """The file's sound -> float32 [n] (mono) or [2, n] (stereo) at `sample_rate`.

    Time 0 is where the picture starts. It is as long as the picture (zeros where there is no
    sound), at most `max_seconds`, and just that if `exact`; a file without a picture gives its
    sound as it is. Mono is the plain mean of the channels, before resampling. Raises MediaError if
    there is no sound, or if it cannot be decoded whole.
    """
    sound = decode_audio(path, layout, max_seconds)
    samples = sound.samples
    if sound.sample_rate != sample_rate:
        samples = soxr.resample(samples.T, sound.sample_rate, sample_rate).T
    seconds = max_seconds if exact else sound.samples.shape[1] / sound.sample_rate
    samples = _fit(samples, round(seconds * sample_rate))
    return samples[0] if layout == "mono" else samples


def decode_audio(
    path: Path, layout: Layout | None = None, max_seconds: float = MAX_SECONDS
) -> Sound:
    """The file's sound at its own rate, as long as the picture and at most `max_seconds`.

    With no `layout`, its own channels. Raises MediaError as `read_audio` does.
    """
    with open_media(path, "its sound cannot be decoded", picture=False) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError(path, "no audio stream")
        if not has_decoder(stream):
            raise MediaError(path, "its audio is in a codec that cannot be decoded")
        picture = seconds_of(path, container, video_stream(container))
        wanted = min(max_seconds, picture) if picture else max_seconds
        start = picture_start(path, container)
        start = start_of(stream) if start is None else start
        track = _decode(path, container, stream, start, wanted)
    samples = track.mixed(layout)
    if picture:
        samples = _fit(samples, round(wanted * track.rate))
    if not np.isfinite(samples).all():
        raise MediaError(path, "its sound holds samples that are not numbers (NaN or infinite)")
    return Sound(np.ascontiguousarray(samples[:, : math.ceil(wanted * track.rate)]), track.rate)


@dataclass
class _Track:
    """Decoded frames laid on a clock of samples, where 0 is the picture's start."""

    rate: int
    channel_names: tuple[str, ...]
    chunks: list[Audio] = field(default_factory=list[Audio])
    end: int | None = None  # where the last frame ends, in samples; None before the first

    def add(self, at: int | None, samples: Audio, limit: int) -> None:
        """Lay samples [channels, n] at their place: a gap becomes zeros, nothing is before 0."""
        expected = self.end if self.end is not None else (at or 0)
        place = expected if at is None or at - expected < _GAP * self.rate else min(at, limit)
        written = max(expected, 0) if self.end is not None else 0
        if place > written:
            self.chunks.append(np.zeros((len(samples), place - written), np.float32))
        skipped = min(max(0, -place), samples.shape[1])
        self.chunks.append(samples[:, skipped:])
        self.end = place + samples.shape[1]

    def mixed(self, layout: Layout | None) -> Audio:
        if not self.chunks:
            return np.zeros((2 if layout == "stereo" else 1, 0), np.float32)
        samples = np.concatenate(self.chunks, 1)
        if layout is None or (layout == "stereo" and len(samples) == 2):
            return samples
        if layout == "mono" or len(samples) == 1:
            mean = samples.mean(0, keepdims=True, dtype=np.float32)
            return mean if layout == "mono" else np.repeat(mean, 2, 0)
        sides = [_side(self.channel_names, drop) for drop in "RL"]
        return np.stack([samples[side].mean(0, dtype=np.float32) for side in sides])


def _side(names: tuple[str, ...], other: str) -> list[int]:
    """All channels but those whose name ends in the other side's letter."""
    side = [i for i, name in enumerate(names) if not name.endswith(other)]
    return side or list(range(len(names)))


def _decode(
    path: Path, container: InputContainer, stream: av.AudioStream, zero: float, seconds: float
) -> _Track:
    """Decode up to `seconds` after `zero`; frames that follow each other become arrays together."""
    rate, channels = stream.sample_rate, stream.layout.nb_channels
    track = _Track(rate, tuple(channel.name for channel in stream.layout.channels))
    limit = math.ceil(seconds * rate)
    run, start, end = av.AudioFifo(), 0, 0  # gathered frames, the samples between which they lie
    empty = True
    for frame in _frames_of(container, stream):
        empty = False
        if frame.is_corrupt:
            raise MediaError(path, f"its sound is damaged at {frame.time or 0:.2f} s")
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            when = f"{frame.time or 0:.2f} s"
            raise MediaError(path, f"its sound changes its rate or channels at {when}")
        # where it starts, in samples after the picture's start, if it says so
        at = None if frame.time is None else round((frame.time - zero) * rate)
        gap = at is not None and at - end >= _GAP * rate
        if run.samples and (gap or run.samples > _GATHERED):
            track.add(start, _to_float(run), limit)
        if run.samples == 0:
            start = end = at if at is not None else track.end or 0
        frame.pts = None  # the gatherer would insist on its own idea of time
        run.write(frame)
        end += frame.samples
        if end >= limit:
            break
    if empty:
        raise MediaError(path, "its audio stream holds no sound")
    if run.samples:
        track.add(start, _to_float(run), limit)
    if end < limit:
        check_whole(path, container, stream, zero + end / rate)
    return track


def _frames_of(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # not even read from the file
    yield from container.decode(stream)


def _to_float(run: av.AudioFifo) -> Audio:
    """Take all gathered samples, of any format -> float32 [channels, n], full scale 1."""
    frame = run.read()
    assert frame is not None
    channels = frame.layout.nb_channels
    if channels >= _MANY_PLANES:  # the library reads past the last of so many: interleaved first
        (frame,) = av.AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)
    raw = frame.to_ndarray()
    if not frame.format.is_planar:
        raw = raw.reshape(-1, channels).T
    if raw.dtype == np.uint8:
        return (raw.astype(np.float32) - np.float32(128)) / np.float32(128)
    if raw.dtype.kind == "i":
        return raw.astype(np.float32) / np.float32(2.0 ** (8 * raw.dtype.itemsize - 1))
    return np.asarray(raw, np.float32)


def _fit(samples: Audio, n: int) -> Audio:
    """Crop or pad with zeros -> [channels, n]."""
    samples = samples[:, :n]
    return np.pad(samples, ((0, 0), (0, n - samples.shape[1]))) if samples.shape[1] < n else samples
