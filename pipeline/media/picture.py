"""Pictures by time: the frame that is on screen at each moment, and only those are scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.media.errors import MediaError
from pipeline.media.info import duration_of, quarter_turns, start_of
from pipeline.media.opening import forbid_large_pictures, has_decoder, open_media, video_stream

Pictures = NDArray[np.uint8]
_SHORT = 0.5  # seconds by which the picture may end before its declared end


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
    return out if out is not None else np.zeros((0, 0, 0, 3), np.uint8)


def _on_screen(
    path: Path, container: InputContainer, stream: av.VideoStream, times: NDArray[np.float64]
) -> Iterator[tuple[int, int, av.VideoFrame]]:
    """For ascending times, (first, last, frame): the frame is on screen at times[first:last]."""
    done = 0
    previous: tuple[float, av.VideoFrame] | None = None
    tick = float(stream.time_base) if stream.time_base else 0.0
    slack = min(0.5 * tick, 0.001) + 1e-9  # a timestamp is rounded to a tick (1 ms in some formats)
    for at, frame in _timed(path, container, stream):
        if done == len(times):
            return
        until = int(np.searchsorted(times, at - slack, side="left"))
        if previous is not None and until > done:
            yield done, until, previous[1]
            done = until
        previous = at, frame
    if previous is None:
        raise MediaError(path, "its video holds no picture")
    if done < len(times):
        _check_whole(path, container, stream, previous[0], float(times[-1]))
        yield done, len(times), previous[1]


def _timed(path: Path, container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded frames with their time in seconds after the first picture."""
    start: float | None = None
    at, step = 0.0, _frame_seconds(stream)
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise MediaError(path, f"its picture is damaged at {at:.2f} s")
        time: float | None = frame.time if frame.pts is not None else None
        if start is None:
            start = start_of(stream) if time is None else time
        else:
            at = at + step if time is None else time - start
        yield at, frame


def _frame_seconds(stream: av.VideoStream) -> float:
    return 1 / float(stream.average_rate) if stream.average_rate else 0.04


def _check_whole(path: Path, container: InputContainer, stream: av.VideoStream, last: float, asked: float) -> None:
    declared = duration_of(container, stream)
    if declared is None:
        return
    end = last + _frame_seconds(stream)
    if min(declared, asked) - end > max(_SHORT, 2 * _frame_seconds(stream)):
        raise MediaError(path, f"truncated: its picture ends at {end:.2f} s of {declared:.2f} s")


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
        return np.rot90(picture, quarter_turns(frame))
