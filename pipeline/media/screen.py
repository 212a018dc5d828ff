"""What is on screen at each time; pictures that nobody sees or needs are not decoded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from model.types import Times
from pipeline.media.clock import check_whole, start_of
from pipeline.media.errors import MediaError
from pipeline.media.opening import forbid_large_pictures, has_decoder, open_media, video_stream

# (first, last, frame): the frame is on screen at times[first:last]
Shown = tuple[int, int, av.VideoFrame]

_DECODING = "its picture cannot be decoded"


def on_screen(path: Path, times: Times) -> Iterator[Shown]:
    """For ascending times (seconds after the first picture), the frames that are on screen at them.

    Raises MediaError if there is no picture, or if it cannot be decoded whole up to the last time.
    """
    done = 0
    try:
        for first, last, frame in _play(path, times, _foresee(path, times)):
            yield first, last, frame
            done = last
    except _UnforeseenError:  # a broken file: every picture is decoded, and time alone decides
        for first, last, frame in _play(path, times, None):
            if last > done:
                yield max(first, done), last, frame


class _UnforeseenError(Exception):
    """A file does not show what its packets promise."""


@dataclass(frozen=True)
class _Foreseen:
    """By the packets' times: the first picture, when each chosen one is shown, which are unseen."""

    first: int
    shown: Mapping[int | None, tuple[int, int]]
    unseen: frozenset[int]


def _foresee(path: Path, times: Times) -> _Foreseen | None:
    """Read the packets up to the last time, undecoded; None where they do not tell enough."""
    with open_media(path, _DECODING, picture=False) as container:
        stream = video_stream(container)
        # the formats with a time on every packet, and the codec whose decoder knows what no other
        # picture refers to
        if stream is None or not has_decoder(stream):
            return None
        if container.format.name not in ("mov", "matroska") or stream.codec_context.name != "h264":
            return None
        stamps: list[int] = []
        for packet in container.demux(stream):
            if packet.size == 0:
                break
            if packet.pts is None or packet.time_base != stream.time_base:
                return None
            if not packet.is_discard:  # an edit list hides it: it is decoded for others
                stamps.append(packet.pts)
            if not stamps or not packet.dts:
                continue
            if float((packet.dts - stamps[0]) * packet.time_base) > times[-1] + 1:
                break  # what comes is shown later still
        return _choose(stream, sorted(stamps), times)


def _choose(stream: av.VideoStream, stamps: list[int], times: Times) -> _Foreseen | None:
    if len(set(stamps)) < max(2, len(stamps)) or stream.time_base is None:
        return None
    starts = np.array([float(stamp * stream.time_base) for stamp in stamps])
    until = _until(starts, starts[0], stream, times)  # times before the start of each
    bounds = [0, *until[1:].tolist(), len(times)]
    shown: dict[int | None, tuple[int, int]] = {
        stamp: (bounds[i], bounds[i + 1])
        for i, stamp in enumerate(stamps)
        if bounds[i] < bounds[i + 1]
    }
    end = int(np.searchsorted(until, len(times)))  # here it is known that all times are served
    needed = frozenset((stamps[0], *stamps[end : end + 1]))
    return _Foreseen(stamps[0], shown, frozenset(stamps) - needed - shown.keys())


def _until(
    at: Times | float, start: float, stream: av.VideoStream, times: Times
) -> NDArray[np.intp]:
    """How many of the times lie before a picture that is shown from `at` on (file's clock)."""
    tick = float(stream.time_base) if stream.time_base else 0.0
    slack = min(0.5 * tick, 0.001) + 1e-9  # a timestamp is rounded to a tick (1 ms in some formats)
    return np.searchsorted(times, np.asarray(at - start - slack), side="left")


def _play(path: Path, times: Times, foreseen: _Foreseen | None) -> Iterator[Shown]:
    """Decode; raises _UnforeseenError where what is shown is not what was foreseen."""
    with open_media(path, _DECODING) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(path, "no video stream")
        if not has_decoder(stream):
            raise MediaError(path, "its video is in a codec that cannot be decoded")
        forbid_large_pictures(stream)
        # clips are read beside each other, and a decoder's threads may wait for each other
        stream.thread_count = 1
        for first, last, frame in _by_time(path, container, stream, times, foreseen):
            if foreseen is not None and foreseen.shown.get(frame.pts) != (first, last):
                raise _UnforeseenError
            yield first, last, frame


def _by_time(
    path: Path,
    container: InputContainer,
    stream: av.VideoStream,
    times: Times,
    foreseen: _Foreseen | None,
) -> Iterator[Shown]:
    done = 0
    start: float | None = None
    at, previous = 0.0, None
    for at, frame in _timed(path, container, stream, foreseen):
        if start is None:
            start = at
            if foreseen is not None and frame.pts != foreseen.first:
                raise _UnforeseenError
        until = int(_until(at, start, stream, times))
        if previous is not None and until > done:
            yield done, until, previous
            done = until
        if done == len(times):
            return
        previous = frame
    if previous is None:
        raise MediaError(path, "its video holds no picture")
    step = _frame_seconds(stream)
    if times[-1] > at - (start or 0) + step:  # what is asked for lies behind the last picture
        check_whole(path, container, stream, at + step)
    yield done, len(times), previous


def _timed(
    path: Path, container: InputContainer, stream: av.VideoStream, foreseen: _Foreseen | None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded frames with their time on the file's clock, in seconds."""
    at, step = start_of(stream), _frame_seconds(stream)
    in_avi, shift = container.format.name == "avi", 0
    unseen = foreseen.unseen if foreseen else frozenset[int]()
    for number, frame in enumerate(_decoded(container, stream, unseen)):
        stamp = frame.pts
        if in_avi:  # it keeps decoding times only: those go up with every picture
            shift = (frame.pts or 0) - (frame.dts or 0) if number == 0 else shift
            stamp = None if frame.dts is None else frame.dts + shift
        if stamp is not None and frame.time_base is not None:
            at = float(stamp * frame.time_base)
        elif number > 0:
            at += step
        if frame.is_corrupt:
            raise MediaError(path, f"its picture is damaged at {at:.2f} s")
        yield at, frame


def _decoded(
    container: InputContainer, stream: av.VideoStream, unseen: frozenset[int]
) -> Iterator[av.VideoFrame]:
    """All frames but the unseen ones that no other refers to."""
    context = stream.codec_context
    for packet in container.demux(stream):
        context.skip_frame = "NONREF" if packet.pts in unseen else "DEFAULT"
        yield from packet.decode()


def _frame_seconds(stream: av.VideoStream) -> float:
    return 1 / float(stream.average_rate) if stream.average_rate else 0.04
