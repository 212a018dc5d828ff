"""What becomes of a sound after the models: its place in an older one, its rate and its level.

Measuring and limiting are ffmpeg's own (filters loudnorm and alimiter), by ffmpeg-python and the
binary that imageio-ffmpeg brings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import soxr

from model.types import Audio
from pipeline.generation.requests import Request
from pipeline.generation.retake import read_spans, spliced
from pipeline.generation.sources import own_sound
from warehouse.errors import FoleyError

TRUE_PEAK = -1.0  # dBTP, of EBU R 128
_OVERSAMPLED = 192_000  # Hz, at which a limiter sees peaks between samples
_UNMEASURED = -70.0  # LUFS, below which BS.1770 hears nothing


@dataclass(frozen=True)
class Loudness:
    """Integrated loudness in LUFS (None where too little is heard to tell), true peak in dBTP."""

    integrated: float | None
    true_peak: float


def finish(request: Request, audio: Audio, rate: int) -> tuple[Audio, int]:
    """A sound [channels, n] of the models as the request wants it, and its rate.

    A retake has the rate and the channels of the sound that it is part of. Raises MediaError where
    that sound, or the video's own, cannot be read.
    """
    options = request.options
    if request.earlier is not None and options.redo is not None:
        old = own_sound(request.earlier)
        wanted = old.sample_rate
        new = resampled(with_channels(audio, len(old.samples)), rate, wanted)
        audio = spliced(old.samples, new, read_spans(options.redo), wanted)
    else:
        wanted = options.sample_rate or rate
        audio = resampled(audio, rate, wanted)
    if options.mix is not None and request.video is not None:
        own = own_sound(request.video, len(audio))
        audio = mixed(audio, resampled(own.samples, own.sample_rate, wanted), options.mix)
    if options.loudness is not None:
        audio = to_loudness(audio, wanted, options.loudness)
    return audio, wanted


def measure(sound: Audio, rate: int) -> Loudness:
    """Loudness of samples [channels, n] by BS.1770-4."""
    stream = _source(sound, rate).filter("loudnorm", print_format="json")
    said = _run(stream.output("-", format="null"), sound)[1]
    found = json.loads(said[said.rindex("{") : said.rindex("}") + 1])
    integrated, peak = float(found["input_i"]), float(found["input_tp"])
    return Loudness(integrated if integrated > _UNMEASURED else None, peak)


def to_loudness(sound: Audio, rate: int, target: float) -> Audio:
    """The sound at so many LUFS, with peaks limited to TRUE_PEAK: one gain, and no compression.

    What is too short or too quiet to measure (BS.1770 needs 0.4 s) is left as it is.
    """
    heard = measure(sound, rate)
    if heard.integrated is None:
        return sound
    gain = target - heard.integrated
    if heard.true_peak + gain <= TRUE_PEAK:
        return sound * np.float32(10 ** (gain / 20))
    limit = {"limit": 10 ** (TRUE_PEAK / 20), "level": False, "attack": 1, "release": 50}
    stream = (
        _source(sound, rate)
        .filter("aresample", _OVERSAMPLED)
        .filter("volume", f"{gain}dB")
        .filter("alimiter", **limit, latency=True)
        .filter("aresample", rate)
    )
    raw = _run(stream.output("-", format="f32le", ar=rate), sound)[0]
    limited = np.frombuffer(raw, np.float32).reshape(-1, len(sound)).T[:, : sound.shape[1]]
    return np.pad(limited, ((0, 0), (0, sound.shape[1] - limited.shape[1])))


def resampled(sound: Audio, rate: int, wanted: int) -> Audio:
    """Samples [channels, n] at another rate, of the same length to the sample."""
    if rate == wanted:
        return sound
    new = soxr.resample(sound.T, rate, wanted).T
    count = round(sound.shape[1] * wanted / rate)
    return np.pad(new, ((0, 0), (0, max(0, count - new.shape[1]))))[:, :count]


def with_channels(sound: Audio, channels: int) -> Audio:
    """Samples [1 or 2, n] -> [channels, n]: the plain mean, or the same on both sides."""
    if len(sound) == channels:
        return sound
    return np.repeat(sound.mean(0, keepdims=True, dtype=np.float32), channels, 0)


def mixed(new: Audio, old: Audio, level: float) -> Audio:
    """A new sound [channels, n] at `level` dB over an old one [1 or 2, any], as long as the new."""
    old = with_channels(old, len(new))[:, : new.shape[1]]
    total = new * np.float32(10 ** (level / 20))
    total[:, : old.shape[1]] += old
    return total


def _source(sound: Audio, rate: int) -> Any:
    return ffmpeg.input("pipe:", format="f32le", ar=rate, ac=len(sound))


def _run(stream: Any, sound: Audio) -> tuple[bytes, str]:
    """What ffmpeg writes to standard output and standard error for these samples."""
    try:
        out, said = stream.run(
            cmd=imageio_ffmpeg.get_ffmpeg_exe(),
            input=np.ascontiguousarray(sound.T, np.float32).tobytes(),
            capture_stdout=True,
            capture_stderr=True,
        )
    except (ffmpeg.Error, OSError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        last = said.decode(errors="replace").strip().splitlines()[-1]
        raise FoleyError(f"the loudness cannot be set: ffmpeg: {last}") from None
    return out, said.decode(errors="replace")
