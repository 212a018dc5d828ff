"""Pictures by time: the frame that is on screen at each moment, and only those are scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.media.clock import check_whole, start_of
from pipeline.media.errors import MediaError
from pipeline.media.info import quarter_turns
from pipeline.media.opening import forbid_large_pictures, has_decoder, open_media, video_stream

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Framing:
    """How a picture is brought to size: its short side scaled to `short_side`, then the centre `crop` square of that.

    With no `crop`, the whole picture. V-JEPA2's own processor is Framing(292, 256).
    """

    short_side: int
    crop: int | None = None

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
        order = np.argsort(np.asarray(times, np.float64), kind="stable")
        wanted = np.asarray(times, np.float64)[order]
        out: Pictures | None = None
        for first, last, frame in _on_screen(path, container, stream, wanted):
            picture = scaler(frame)
            if out is None:
                out = np.empty((len(wanted), *picture.shape), np.uint8)
            if picture.shape != out.shape[1:]:
                raise MediaError(path, "its picture changes shape in the middle")
            out[order[first:last]] = picture
    assert out is not None
    return out


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
    """Brings frames to size, with one scaling context for all of them."""

    def __init__(self, path: Path, framing: Framing) -> None:
        self._path, self._framing = path, framing
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Pictures:
        """A frame -> uint8 [H, W, 3], upright."""
        side, crop = self._framing.short_side, self._framing.crop
        scale = side / min(frame.width, frame.height)
        width, height = max(side, round(frame.width * scale)), max(side, round(frame.height * scale))
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC
        )
        picture = scaled.to_ndarray()
        if crop is not None:
            top, left = (height - crop) // 2, (width - crop) // 2
            picture = picture[top : top + crop, left : left + crop]
        return np.rot90(cast("Pictures", picture), quarter_turns(frame))
