"""A clip's sounds and picture as a browser takes them: FLAC and mp4 in data URIs, waveforms as SVG paths."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
from numpy.typing import NDArray

COLUMNS = 400  # points along a waveform: about one a pixel at the width it is shown
HALF_HEIGHT = 50


def data_uri(content: bytes, mime: str) -> str:
    """The content itself as an address."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def to_flac(audio: NDArray[np.float32], sample_rate: int) -> bytes:
    """FLAC (16 bit) of mono [S] or [C, S] samples in -1..1; louder ones are clipped.

    Lossless on purpose: lossy formats delay a sound by a frame or two, and this report is about timing.
    Raises ValueError for more than two channels.
    """
    channels = np.atleast_2d(audio)  # [C, S]
    if channels.shape[0] > 2:
        raise ValueError(f"a sound has one or two channels, not {channels.shape[0]}")
    clean = np.nan_to_num(channels, nan=0.0, posinf=1.0, neginf=-1.0)
    if clean.shape[1] == 0:
        clean = np.zeros((1, 1), np.float32)  # a FLAC file holds at least one sample
    samples = np.round(np.clip(clean, -1, 1) * 32767).astype(np.int16)
    layout = "mono" if samples.shape[0] == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as out:
        stream = out.add_stream("flac", rate=sample_rate, layout=layout)
        stream.format = "s16"
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def seconds_of(audio: NDArray[np.float32], sample_rate: int) -> float:
    """Length in seconds of mono [S] or [C, S] samples."""
    return audio.shape[-1] / sample_rate


def peak_of(audio: NDArray[np.float32]) -> float:
    """The largest finite magnitude, 0 for an empty sound."""
    return float(np.abs(np.nan_to_num(audio, posinf=1.0, neginf=-1.0)).max(initial=0.0))


def waveform_path(audio: NDArray[np.float32], peak: float, share: float = 1.0) -> str:
    """The outline of a waveform as an SVG path, COLUMNS wide and 2 * HALF_HEIGHT high.

    `peak` is the magnitude that fills the height; `share` is the part of the width that the sound fills.
    """
    mono = np.nan_to_num(np.atleast_2d(audio)).mean(0)
    if mono.size == 0 or peak <= 0 or share <= 0:
        return f"M0 {HALF_HEIGHT}H{COLUMNS}"
    width = max(1, min(round(COLUMNS * share), mono.size))
    starts = np.linspace(0, mono.size, width, endpoint=False).astype(int)
    top = np.clip(np.maximum.reduceat(mono, starts) / peak, -1, 1)
    bottom = np.clip(np.minimum.reduceat(mono, starts) / peak, -1, 1)
    x = np.linspace(0, COLUMNS * share, width)
    upper = [f"{a:.0f} {HALF_HEIGHT - b * HALF_HEIGHT:.0f}" for a, b in zip(x, top, strict=True)]
    lower = [f"{a:.0f} {HALF_HEIGHT - b * HALF_HEIGHT:.0f}" for a, b in zip(x[::-1], bottom[::-1], strict=True)]
    return "M" + "L".join(upper + lower) + "Z"
