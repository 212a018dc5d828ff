"""Pictures by time: the frame that is on screen at each moment, and only those are scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from numpy.typing import NDArray

from pipeline.media.clock import check_whole, start_of
from pipeline.media.errors import MediaError
from pipeline.media.info import quarter_turns
from pipeline.media.opening import LIMITS, forbid_large_pictures, has_decoder, open_media, video_stream

Pictures = NDArray[np.uint8]
Scaling = Literal["bilinear", "bicubic"]

#: What the scaler is told. Bicubic is that of torchvision and Pillow (a = -.5), which is not swscale's own (-.6).
_FLAGS: dict[Scaling, str] = {"bilinear": "bilinear", "bicubic": "bicubic:param0=0:param1=0.5"}


@dataclass(frozen=True)
class Framing:
    """How a picture is brought to size: its short side scaled to `short_side`, then the centre `crop` square of that.

    With no `crop`, the whole picture. V-JEPA2's own processor is Framing(292, 256), and bilinear as this is.
    Smaller pictures are means of what falls together, whichever the `scaling`.
    """

    short_side: int
    crop: int | None = None
    scaling: Scaling = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= (self.crop or 1) <= self.short_side:
            raise ValueError(f"a crop of {self.crop} needs a short side of at least that, not {self.short_side}")


def read_frames(
    path: Path, times: Sequence[float] | NDArray[np.float64], framing: Framing, threads: int = 1
) -> Pictures:
    """The picture on screen at each time -> uint8 [len(times), H, W, 3], upright RGB.

    Times are seconds after the first picture, in any order; before it the first is shown, after the last the last.
    Memory is bounded by the answer, whatever the file's frame rate and length. Raises MediaError if there is no
    picture, or if it cannot be decoded whole up to the last time asked for.
    """
    if len(times) == 0:
        raise ValueError("no times are asked for")
    order = np.argsort(np.asarray(times, np.float64), kind="stable")
    wanted = np.asarray(times, np.float64)[order]
    out: Pictures | None = None
    for first, last, picture in _pictures(path, wanted, framing, threads):
        if out is None:
            out = np.empty((len(wanted), *picture.shape), np.uint8)
        out[order[first:last]] = picture
    assert out is not None
    return out


def read_segments(
    path: Path, times: NDArray[np.float64], framing: Framing, size: int, threads: int = 1
) -> Iterator[Pictures]:
    """As `read_frames`, for ascending times and in pieces of at most `size` frames, so that a long video fits."""
    segment: list[Pictures] = []
    for first, last, picture in _pictures(path, times, framing, threads):
        for _ in range(first, last):
            segment.append(picture)
            if len(segment) == size:
                yield np.stack(segment)
                segment = []
    if segment:
        yield np.stack(segment)


def _pictures(
    path: Path, times: NDArray[np.float64], framing: Framing, threads: int
) -> Iterator[tuple[int, int, Pictures]]:
    """For ascending times, (first, last, picture): the picture is on screen at times[first:last]. All of one shape."""
    with open_media(path, "its picture cannot be decoded") as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError(path, "no video stream")
        if not has_decoder(stream):
            raise MediaError(path, "its video is in a codec that cannot be decoded")
        forbid_large_pictures(stream)
        stream.thread_count = threads
        stream.thread_type = "AUTO"
        scaler = _Scaler(path, framing)
        shape: tuple[int, ...] | None = None
        for first, last, frame in _on_screen(path, container, stream, times):
            picture = scaler(frame)
            if picture.shape != (shape or picture.shape):
                raise MediaError(path, "its picture changes shape in the middle")
            shape = picture.shape
            yield first, last, picture


def _on_screen(
    path: Path, container: InputContainer, stream: av.VideoStream, times: NDArray[np.float64]
) -> Iterator[tuple[int, int, av.VideoFrame]]:
    """For ascending times, (first, last, frame): the frame is on screen at times[first:last]."""
    done = 0
    start: float | None = None
    at, previous = 0.0, None
    tick = float(stream.time_base) if stream.time_base else 0.0
    slack = min(0.5 * tick, 0.001) + 1e-9  # a timestamp is rounded to a tick (1 ms in some formats)
    for at, frame in _timed(path, container, stream):
        start = at if start is None else start
        until = int(np.searchsorted(times, at - start - slack, side="left"))
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


def _timed(path: Path, container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded frames with their time on the file's clock, in seconds."""
    at, step = start_of(stream), _frame_seconds(stream)
    in_avi, shift = container.format.name == "avi", 0
    for number, frame in enumerate(container.decode(stream)):
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


def _frame_seconds(stream: av.VideoStream) -> float:
    return 1 / float(stream.average_rate) if stream.average_rate else 0.04


class _Scaler:
    """Brings frames to size. The crop comes first, so that only what is kept is scaled."""

    def __init__(self, path: Path, framing: Framing) -> None:
        self._path, self._framing = path, framing
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def __call__(self, frame: av.VideoFrame) -> Pictures:
        """A frame -> uint8 [H, W, 3], upright."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = self._filters(frame), shape
        self._graph.vpush(frame)
        scaled = self._graph.vpull().to_ndarray()
        return np.rot90(cast("Pictures", scaled), quarter_turns(frame))

    def _filters(self, frame: av.VideoFrame) -> Graph:
        """Crop the centre, scale, convert to RGB: one filter graph for all frames of a size."""
        side, crop = self._framing.short_side, self._framing.crop
        scale = side / min(frame.width, frame.height)
        graph = Graph()
        graph.threads = 1
        steps = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        ]
        if crop is None:
            width, height = max(side, round(frame.width * scale)), max(side, round(frame.height * scale))
        else:
            width = height = crop
            kept = max(1, round(crop / scale))
            steps.append(graph.add("crop", f"{kept}:{kept}"))
        if max(width, height) > LIMITS.max_side:
            raise MediaError(self._path, f"its picture of {frame.width} x {frame.height} pixels is too narrow to scale")
        steps.append(graph.add("scale", f"{width}:{height}:flags={_FLAGS[self._framing.scaling]}"))
        steps.append(graph.add("format", "rgb24"))
        steps.append(graph.add("buffersink"))
        graph.link_nodes(*steps).configure()
        return graph
