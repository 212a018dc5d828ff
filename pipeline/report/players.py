"""A clip's player: its lanes, one a sound, all on the same time axis."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.metrics.onsets import sync_score
from pipeline.report.charts import Axis, Tick
from pipeline.report.sounds import (
    data_uri,
    peak_of,
    seconds_of,
    spectrogram_uri,
    to_flac,
    waveform_path,
)

HIT_SECONDS = 0.06  # the tolerance of the F1 shown in each lane

# condition -> (title, what it was made from); the names are also the colours' in the style sheet
CONDITIONS = {
    "original": ("Original", "the clip's own sound"),
    "true": ("True video", "made from this picture"),
    "swap": ("Prompt swapped", "made from this picture"),
    "other": ("Other video", "made from another clip's picture"),
    "none": ("No video", "made from the prompt alone"),
    "video": ("No prompt", "made from this picture alone"),
}


class ReportSound(NamedTuple):
    """One sound of a clip."""

    audio: NDArray[np.float32]  # in -1..1, mono [S] or [C, S]
    sample_rate: int
    onsets: Collection[float] = ()  # detected times, seconds


@dataclass(frozen=True)
class ReportClip:
    """One clip with a player."""

    clip_id: str
    prompt: str
    video: bytes  # of an mp4 that a browser can play
    sounds: Mapping[str, ReportSound]  # by condition: original, true, other, swap, none, video
    impacts: Collection[float] = ()  # known times, seconds
    swapped_prompt: str | None = None
    changed: tuple[float, float] | None = None  # from when to when it differs from its pair, s


@dataclass(frozen=True)
class Onset:
    """A detected onset: percent of the axis, seconds, and whether an impact is near."""

    at: float
    seconds: float
    hit: bool


@dataclass(frozen=True)
class Lane:
    """One sound: what is heard, drawn and said about it."""

    condition: str
    title: str
    about: str
    uri: str
    path: str
    onsets: tuple[Onset, ...]
    f1: float | None
    spectrogram: str  # address of its picture, empty where there is none


@dataclass(frozen=True)
class Player:
    """One clip: its picture, its lanes and the time axis that they share."""

    clip: ReportClip
    uri: str
    seconds: float
    impacts: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    start: str
    band: tuple[float, float] | None  # of what differs: percent of the axis, and of its width


def player(clip: ReportClip, spectrograms: bool = False) -> Player:
    """The player of a clip; lanes come in the order of CONDITIONS, then any other."""
    order = sorted(clip.sounds, key=lambda c: [*CONDITIONS, c].index(c))
    lengths = [seconds_of(sound.audio, sound.sample_rate) for sound in clip.sounds.values()]
    axis = Axis(0.0, max([*lengths, *clip.impacts, 0.1]))
    peak = max((peak_of(sound.audio) for sound in clip.sounds.values()), default=0.0)
    impacts = [Tick(round(100 * axis.share(t), 3), f"impact at {t:.2f} s") for t in clip.impacts]
    return Player(
        clip=clip,
        uri=data_uri(clip.video, "video/mp4"),
        seconds=axis.high,
        impacts=tuple(impacts),
        ticks=axis.ticks(4, " s"),
        lanes=tuple(_lane(clip, name, axis, peak, spectrograms) for name in order),
        start="true" if "true" in clip.sounds else next(iter(order), ""),
        band=clip.changed and _band(axis, *clip.changed),
    )


def _band(axis: Axis, begin: float, end: float) -> tuple[float, float]:
    left, right = (round(100 * axis.share(t), 3) for t in (begin, end))
    return left, round(right - left, 3)


def _lane(clip: ReportClip, name: str, axis: Axis, peak: float, spectrograms: bool) -> Lane:
    audio, rate, onsets = clip.sounds[name]
    title, about = CONDITIONS.get(name, (name, ""))
    if name == "swap" and clip.swapped_prompt:
        about = f"“{clip.swapped_prompt}”"
    near = [any(abs(t - impact) <= HIT_SECONDS for impact in clip.impacts) for t in onsets]
    marks = [
        Onset(round(100 * axis.share(t), 3), t, hit) for t, hit in zip(onsets, near, strict=True)
    ]
    return Lane(
        condition=name,
        title=title,
        about=about,
        uri=data_uri(to_flac(audio, rate), "audio/flac"),
        path=waveform_path(audio, peak, seconds_of(audio, rate) / axis.high),
        onsets=tuple(marks),
        f1=_f1(clip, clip.sounds[name]),
        spectrogram=spectrogram_uri(audio, rate, axis.high) if spectrograms else "",
    )


def _f1(clip: ReportClip, sound: ReportSound) -> float | None:
    """F1 at 60 ms of one sound, by the same measure as the sync table; None without impacts."""
    if not len(clip.impacts):
        return None
    impacts, onsets = (np.asarray(times, float) for times in (clip.impacts, sound.onsets))
    return sync_score([impacts], [onsets]).f1_60ms
