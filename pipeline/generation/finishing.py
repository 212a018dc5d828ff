"""What becomes of a sound after the models: its place in an older one, its rate and its level.

Measuring and limiting are ffmpeg's own (filters ebur128 and alimiter), by ffmpeg-python and the
binary that imageio-ffmpeg brings.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import ffmpeg
import imageio_ffmpeg
import numpy as np
import soxr

from model.types import Audio
from pipeline.generation.provenance import gain_of
from pipeline.generation.requests import Request
from pipeline.generation.retake import read_spans, spliced
from pipeline.generation.sources import own_sound
from warehouse.errors import FoleyError

TRUE_PEAK = -1.0  # dBTP, of EBU R 128
_OVERSAMPLED = 192_000  # Hz, at which a limiter sees peaks between samples
_METERED = 48_000  # Hz, at which BS.1770 gives its filters; at 16 kHz ebur128 is 0.1 to 0.4 LU off
_UNMEASURED = -70.0  # LUFS, below which BS.1770 hears nothing
_NEAR = 0.05  # LU, at which a sound is as loud as asked
_TOLD = 0.1  # LU, over which a line says that it is not
_TRIES = 12  # two or three are the rule
_LIMITED = 6.0  # LU that a limiter may take: what loses more is squashed


@dataclass(frozen=True)
class Loudness:
    """Integrated loudness in LUFS (None where too little is heard to tell), true peak in dBTP."""

    integrated: float | None
    true_peak: float


class Finished(NamedTuple):
    """A sound as it was asked for, lines on it, and by how many dB its loudness was set."""

    audio: Audio
    rate: int
    notes: tuple[str, ...] = ()
    gain: float = 0.0


def finish(request: Request, audio: Audio, rate: int) -> Finished:
    """A sound [channels, n] of the models as the request wants it.

    A retake has the rate and the channels of the sound that it is part of, and the gain that was
    given to that one for its loudness. Raises MediaError where that sound, or the video's own,
    cannot be read.
    """
    options, notes, gain = request.options, (), 0.0
    if request.earlier is not None and options.redo is not None:
        old = own_sound(request.earlier)
        wanted = old.sample_rate
        new = resampled(with_channels(audio, len(old.samples)), rate, wanted)
        if gain := gain_of(request.earlier):
            new = _held(new * np.float32(10 ** (gain / 20)), wanted)
        audio = spliced(old.samples, new, read_spans(options.redo), wanted)
    else:
        wanted = options.sample_rate or rate
        audio = resampled(audio, rate, wanted)
    if options.mix is not None and request.video is not None:
        own = own_sound(request.video, len(audio))
        audio = mixed(audio, resampled(own.samples, own.sample_rate, wanted), options.mix)
    if options.loudness is not None:
        audio, notes, gain = to_loudness(audio, wanted, options.loudness)
    return Finished(audio, wanted, notes, gain)


def measure(sound: Audio, rate: int) -> Loudness:
    """Loudness of samples [channels, n] by BS.1770-4."""
    stream = (
        _source(sound, rate)
        .filter("aresample", max(rate, _METERED))
        .filter("ebur128", metadata=1)
        .filter("ametadata", "print", key="lavfi.r128.I", file="-")  # so far, every 100 ms
        .filter("aresample", _OVERSAMPLED)
        .filter("astats", measure_perchannel="none", measure_overall="Peak_level")
    )
    told, log = _run(stream.output("-", format="null"), sound)
    integrated = [float(found) for found in re.findall(rb"I=(\S+)", told)] or [_UNMEASURED]
    peak = float(re.findall(r"Peak level dB: (\S+)", log)[-1])
    return Loudness(integrated[-1] if integrated[-1] > _UNMEASURED else None, peak)


def to_loudness(sound: Audio, rate: int, target: float) -> tuple[Audio, tuple[str, ...], float]:
    """The sound at so many LUFS, with peaks limited to TRUE_PEAK: one gain, and no compression.

    Lines on it, and the gain in dB, are the second and the third that it returns.

    It is measured again, and the gain corrected, until it is right to 0.05 LU: a limiter takes
    some of the loudness, and by the gain other parts are loud enough to count (over -70 LUFS).
    Where the limiter would have to take more than 6 LU, the sound stays softer, and a line says so.
    What is too short (BS.1770 needs 0.4 s) or too quiet to measure is left as it is, with a line.
    """
    first = measure(sound, rate)
    if first.integrated is None:
        return (
            sound,
            ("too short or too quiet for its loudness to be measured: left as it is",),
            0.0,
        )
    start = loud = first.integrated
    made, gain, slope = sound, target - start, 1.0
    before: tuple[float, float] | None = None
    for _ in range(_TRIES):
        made, loud = _at_gain(sound, rate, gain, first.true_peak)
        missing = min(target - loud, _LIMITED - (start + gain - loud))
        if abs(missing) < _NEAR:
            break
        if before:  # the secant, within what a limiter does
            slope = min(1.0, max(0.2, (before[1] - missing) / (gain - before[0])))
        before, gain = (gain, missing), gain + missing / slope
    if abs(target - loud) <= _TOLD:
        return made, (), gain
    short = f"its loudness is {loud:.1f} LUFS, not {target:g}"
    return made, (f"{short}: more would flatten its peaks, held at {TRUE_PEAK:g} dBTP",), gain


def _at_gain(sound: Audio, rate: int, gain: float, peak: float) -> tuple[Audio, float]:
    """A sound, whose true peak is given, at so many dB more below TRUE_PEAK, and its loudness."""
    made = sound * np.float32(10 ** (gain / 20))
    if peak + gain > TRUE_PEAK:
        made = _limited(made, rate)
    heard = measure(made, rate)
    loud = _UNMEASURED if heard.integrated is None else heard.integrated
    over = max(0.0, heard.true_peak - TRUE_PEAK)  # peaks grow on the way back to the sound's rate
    return made * np.float32(10 ** (-over / 20)), loud - over


def _held(sound: Audio, rate: int) -> Audio:
    """The sound, limited where its peaks are over TRUE_PEAK."""
    return _limited(sound, rate) if measure(sound, rate).true_peak > TRUE_PEAK else sound


def _limited(sound: Audio, rate: int) -> Audio:
    """The sound with peaks taken down to about TRUE_PEAK."""
    how = {"limit": 10 ** (TRUE_PEAK / 20), "level": False, "attack": 1, "release": 50}
    stream = (
        _source(sound, rate)
        .filter("aresample", _OVERSAMPLED)
        .filter("alimiter", **how, latency=True)
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
