"""A clip's sounds as a browser takes them: FLAC in data URIs, waveforms as SVG paths."""

import base64
import io
from fractions import Fraction

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

    Lossless on purpose: lossy formats delay a sound by a frame or two, and this report is about
    timing. Raises ValueError for more than two channels.
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

    `peak` is the magnitude that fills the height; `share` is the part of the width that the sound
    fills.
    """
    mono = np.nan_to_num(np.atleast_2d(audio)).mean(0)
    if mono.size == 0 or peak <= 0 or share <= 0:
        return f"M0 {HALF_HEIGHT}H{COLUMNS}"
    width = max(1, min(round(COLUMNS * share), mono.size))
    starts = np.linspace(0, mono.size, width, endpoint=False).astype(int)
    top = np.clip(np.maximum.reduceat(mono, starts) / peak, -1, 1)
    bottom = np.clip(np.minimum.reduceat(mono, starts) / peak, -1, 1)
    x = np.linspace(0, COLUMNS * share, width)
    outline = zip([*x, *x[::-1]], [*top, *bottom[::-1]], strict=True)
    points = [f"{a:.0f} {HALF_HEIGHT - b * HALF_HEIGHT:.0f}" for a, b in outline]
    return "M" + "L".join(points) + "Z"


SPECTROGRAM = (64, 320)  # pixels, height and width
SPECTROGRAM_RANGE = 70.0  # dB from the loudest to what is drawn black
SPECTROGRAM_TOP = 8000.0  # Hz at its upper edge
#: From quiet to loud, RGB.
SPECTROGRAM_COLOURS = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))


def spectrogram_uri(audio: NDArray[np.float32], sample_rate: int, seconds: float) -> str:
    """The level over time and frequency (0 to 8 kHz), `seconds` wide, as a PNG in a data URI."""
    mono = np.nan_to_num(np.atleast_2d(audio)).mean(0)
    height, width = SPECTROGRAM
    size = max(64, round(0.032 * sample_rate))
    padded = np.pad(mono, size)
    centres = np.linspace(0, seconds, width) * sample_rate + size  # of the columns, in samples
    starts = np.clip(centres - size // 2, 0, max(0, len(padded) - size)).astype(int)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    frames[centres > len(mono) + size] = 0  # after the end
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2  # [width, size / 2 + 1]
    top = min(SPECTROGRAM_TOP * size / sample_rate, power.shape[1] - 1)
    rows = np.linspace(top, 0, height).round().astype(int)  # high frequencies on top
    level = 10 * np.log10(power[:, rows].T + 1e-12)  # [height, width]
    shade = np.clip(1 + (level - level.max()) / SPECTROGRAM_RANGE, 0, 1)
    if level.max() <= -110:  # silence
        shade = np.zeros_like(level)
    stops = np.linspace(0, 1, len(SPECTROGRAM_COLOURS))
    colours = [
        np.interp(shade, stops, channel) for channel in zip(*SPECTROGRAM_COLOURS, strict=True)
    ]
    return data_uri(_png(np.stack(colours, -1).round().astype(np.uint8)), "image/png")


def _png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG of a picture [height, width, RGB]."""
    codec = av.CodecContext.create("png", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
