"""Frames and samples into a real media file, by real codecs, in process."""

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

from model.types import Audio, Frames
from pipeline.procedural.audio import SAMPLE_RATE, render_audio
from pipeline.procedural.clip import ProceduralClip
from pipeline.procedural.frames import FPS, render_frames

Packets = Iterator[list[av.Packet]]


def write_clip(clip: ProceduralClip, path: Path) -> None:
    """Render the clip and write it as h264 + aac mp4: the same bytes every time."""
    write_media(path, render_frames(clip), render_audio(clip))


def write_media(
    path: Path,
    frames: Frames | None,
    audio: Audio | None,
    fps: float = FPS,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write an mp4, which appears under its name only when it is whole.

    Args:
        path: the file to write.
        frames: uint8 [T, H, W, 3] of even sizes; None for no picture.
        audio: float32 [n], or stereo [2, n]; None for no sound.
        fps: frames a second.
        sample_rate: samples a second.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    index_first = {"movflags": "+faststart"}  # a browser plays it while it loads
    try:
        with av.open(str(partial), "w", format="mp4", options=index_first) as out:
            tracks: list[Packets] = []
            if frames is not None:
                tracks.append(_picture(out, frames, fps))
            if audio is not None:
                tracks.append(_sound(out, audio, sample_rate))
            for packets in chain(*tracks):
                out.mux(packets)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _picture(out: OutputContainer, frames: Frames, fps: float) -> Packets:
    stream = out.add_stream("libx264", Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    # x264 would pick code for the processor at hand, and its AVX-512 code does not give the same
    # bytes twice
    same = {"x264-params": "cpu-independent=1"}
    stream.options = {"preset": "veryfast", "crf": "20", "threads": "1", **same}
    images = (av.VideoFrame.from_ndarray(image, format="rgb24") for image in frames)
    return (stream.encode(image) for image in chain(images, [None]))


def _sound(out: OutputContainer, audio: Audio, sample_rate: int) -> Packets:
    tracks = np.ascontiguousarray(np.atleast_2d(audio))
    layout = ("mono", "stereo")[len(tracks) - 1]
    stream = out.add_stream("aac", sample_rate, layout=layout)
    stream.bit_rate = 64_000 * len(tracks)
    # on these sounds a seventh of twoloop's time, and 10 dB nearer
    stream.options = {"aac_coder": "fast"}
    samples = av.AudioFrame.from_ndarray(tracks, format="fltp", layout=layout)
    samples.sample_rate, samples.pts = sample_rate, 0
    return (stream.encode(frame) for frame in (samples, None))
