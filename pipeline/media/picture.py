"""Frames by time: the frame that is on screen at each moment, and only those are scaled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from model.types import Frames
from pipeline.media.errors import MediaError, media_errors
from pipeline.media.info import quarter_turns
from pipeline.media.opening import MAX_SIDE
from pipeline.media.screen import on_screen

Scaling = Literal["bilinear", "bicubic"]

#: What the scaler is told. Bicubic is that of torchvision and Pillow (a = -.5), which is not
#: swscale's own (-.6).
_FLAGS: dict[Scaling, str] = {"bilinear": "bilinear", "bicubic": "bicubic:param0=0:param1=0.5"}


@dataclass(frozen=True)
class Framing:
    """How a picture is brought to size: its short side is scaled, then the centre square cropped.

    With no `crop`, the whole picture. V-JEPA2's own processor is Framing(292, 256), and bilinear as
    this is. Smaller pictures are means of what falls together, whichever the `scaling`.
    """

    short_side: int
    crop: int | None = None
    scaling: Scaling = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= (self.crop or 1) <= self.short_side:
            raise ValueError(
                f"a crop of {self.crop} needs a short side of at least that, not {self.short_side}"
            )


def read_frames(
    path: Path, times: Sequence[float] | NDArray[np.float64], framing: Framing
) -> Frames:
    """The picture on screen at each time -> uint8 [len(times), H, W, 3], upright RGB.

    Times are seconds after the first picture, in any order; before it the first is shown, after the
    last the last. Memory is bounded by the answer, whatever the file's frame rate and length.
    Raises MediaError if there is no picture, or if it cannot be decoded whole up to the last time
    asked for.
    """
    if len(times) == 0:
        raise ValueError("no times are asked for")
    order = np.argsort(np.asarray(times, np.float64), kind="stable")
    wanted = np.asarray(times, np.float64)[order]
    out: Frames | None = None
    for first, last, picture in _pictures(path, wanted, framing):
        if out is None:
            out = np.empty((len(wanted), *picture.shape), np.uint8)
        out[order[first:last]] = picture
    assert out is not None
    return out


def read_segments(
    path: Path, times: NDArray[np.float64], framing: Framing, size: int
) -> Iterator[Frames]:
    """As `read_frames`, for ascending times, in pieces of `size` frames: a long video fits."""
    segment: list[Frames] = []
    for first, last, picture in _pictures(path, times, framing):
        for _ in range(first, last):
            segment.append(picture)
            if len(segment) == size:
                yield np.stack(segment)
                segment = []
    if segment:
        yield np.stack(segment)


def _pictures(
    path: Path, times: NDArray[np.float64], framing: Framing
) -> Iterator[tuple[int, int, Frames]]:
    """For ascending times, (first, last, picture on screen at times[first:last]), of one shape."""
    scaler = _Scaler(path, framing)
    shape: tuple[int, ...] | None = None
    for first, last, frame in on_screen(path, times):
        with media_errors(path, "its picture cannot be scaled"):
            picture = scaler(frame)
        if picture.shape != (shape or picture.shape):
            raise MediaError(path, "its picture changes shape in the middle")
        shape = picture.shape
        yield first, last, picture


class _Scaler:
    """Brings frames to size. The crop comes first, so that only what is kept is scaled."""

    def __init__(self, path: Path, framing: Framing) -> None:
        self._path, self._framing = path, framing
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """A frame -> uint8 [H, W, 3], upright."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = self._filters(frame), shape
        self._graph.vpush(frame)
        scaled = self._graph.vpull().to_ndarray()
        return np.rot90(cast("Frames", scaled), quarter_turns(frame))

    def _filters(self, frame: av.VideoFrame) -> Graph:
        """Crop the centre, scale, convert to RGB: one filter graph for all frames of a size."""
        side, crop = self._framing.short_side, self._framing.crop
        scale = side / min(frame.width, frame.height)
        graph = Graph()
        graph.threads = 1
        width, height = size = frame.width, frame.height
        kind, tick = frame.format, frame.time_base
        steps = [graph.add_buffer(width=width, height=height, format=kind, time_base=tick)]
        if crop is None:
            width, height = (max(side, round(pixels * scale)) for pixels in size)
        else:
            width = height = crop
            square = max(1, round(crop / scale))
            steps.append(graph.add("crop", f"{square}:{square}"))
        if max(width, height) > MAX_SIDE:
            pixels = f"{frame.width} x {frame.height} pixels"
            raise MediaError(self._path, f"its picture of {pixels} is too narrow to scale")
        steps.append(graph.add("scale", f"{width}:{height}:flags={_FLAGS[self._framing.scaling]}"))
        steps.append(graph.add("format", "rgb24"))
        steps.append(graph.add("buffersink"))
        graph.link_nodes(*steps).configure()
        return graph
