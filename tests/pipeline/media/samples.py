"""Videos for the tests, written by real codecs.

A barcode in every frame tells its number, clicks tell the time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

TICK = Fraction(1, 90_000)
SIDE = 64  # of the square in the centre that holds the barcode
WIDTH = 96
_CELL = SIDE // 4
CLICK_RATE = 48_000


def barcode(number: int) -> NDArray[np.uint8]:
    """A picture [64, 96, 3] whose centre holds `number` (12 bits) in 4 x 4 cells.

    The corners tell which way is up.
    """
    bits = [number >> i & 1 for i in range(12)]
    cells = np.array([1, *bits[:2], 0, *bits[2:10], 0, *bits[10:], 0], np.uint8).reshape(4, 4)
    picture = np.full((SIDE, WIDTH, 3), 128, np.uint8)
    left = (WIDTH - SIDE) // 2
    picture[:, left : left + SIDE] = np.kron(cells * 215 + 20, np.ones((_CELL, _CELL), np.uint8))[
        ..., None
    ]
    return picture


def read_barcode(picture: NDArray[np.uint8]) -> int:
    """The number in an upright picture [64, 64, 3]; -1 if it lies on its side or on its head."""
    cells = (
        picture.mean(-1).reshape(4, _CELL, 4, _CELL)[:, 4:-4, :, 4:-4].mean((1, 3)).ravel() > 128
    )
    if [cells[0], cells[3], cells[12], cells[15]] != [True, False, False, False]:
        return -1
    bits = [*cells[1:3], *cells[4:12], *cells[13:15]]
    return sum(int(bit) << i for i, bit in enumerate(bits))


def clicks(seconds: float, times: Sequence[float], rate: int = CLICK_RATE) -> NDArray[np.float32]:
    """Silence with 20 ms bursts that start at these times -> float32 [n]."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for time in times:
        start, length = round(time * rate), rate // 50
        burst = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(length) / rate)
        sound[start : start + length] = burst[: len(sound) - start]
    return sound


def click_times(sound: NDArray[np.float32], rate: int) -> list[float]:
    """Where the bursts of a mono sound start, in seconds."""
    loud = np.flatnonzero(np.abs(sound) > 0.15)
    starts = loud[np.diff(loud, prepend=-rate) > rate // 20]
    return [float(start) / rate for start in starts]


@dataclass(frozen=True)
class Codecs:
    """What a sample is written with; the container is told by the file's name."""

    video: str = "libx264"
    audio: str | None = "aac"
    rate: int = CLICK_RATE
    layout: str = "mono"
    gop: int = 12
    tick: Fraction = TICK  # of the picture's clock: old codecs want the frame rate's own
    b_frames: int | None = None


def write_sample(
    path: Path,
    times: Sequence[float],
    sound: NDArray[np.float32] | None,
    codecs: Codecs = Codecs(),
    **options: str,
) -> None:
    """Write barcode frames number 0, 1, ..

    At `times` (seconds, ascending), and sound that starts at 0.
    """
    with av.open(str(path), "w", options=options) as out:
        video: Any = out.add_stream(codecs.video, rate=_rate(times))
        video.width, video.height, video.pix_fmt = WIDTH, SIDE, "yuv420p"
        video.codec_context.time_base = codecs.tick
        video.codec_context.gop_size = codecs.gop
        if codecs.b_frames is not None:
            video.codec_context.max_b_frames = codecs.b_frames
        if codecs.video == "libx264":
            video.options = {"preset": "veryfast", "threads": "1"}
        audio: Any = None
        if sound is not None and codecs.audio is not None:
            audio = out.add_stream(codecs.audio, rate=codecs.rate, layout=codecs.layout)
            audio.bit_rate = 128_000
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = round(time / codecs.tick), codecs.tick
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None and sound is not None:
            _encode(out, audio, sound, codecs)


def _rate(times: Sequence[float]) -> Fraction:
    """The usual number of frames per second."""
    return (
        Fraction(1 / float(np.median(np.diff(times)))).limit_denominator(1001)
        if len(times) > 1
        else Fraction(30)
    )


def _encode(out: Any, stream: Any, sound: NDArray[np.float32], codecs: Codecs) -> None:
    planar = np.atleast_2d(sound)
    interleaved = np.ascontiguousarray(planar.T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=codecs.layout)
    frame.sample_rate, frame.pts = codecs.rate, 0
    resampler = av.AudioResampler(
        stream.format.name, codecs.layout, codecs.rate, stream.frame_size or 1024
    )
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def ffmpeg(*arguments: str | Path) -> None:
    """Run the bundled command-line tool."""
    binary = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run(
        [binary, "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL
    )


def shown(times: Sequence[float], asked: Sequence[float], slack: float) -> list[int]:
    """Number of the frame on screen at each time, where 0 is the first frame's own time."""
    starts = np.asarray(times) - times[0]
    return [max(0, int(np.searchsorted(starts, t + slack, side="right")) - 1) for t in asked]


def steady(fps: float, seconds: float = 3.0, start: float = 0.0) -> list[float]:
    return [start + i / fps for i in range(round(fps * seconds))]
