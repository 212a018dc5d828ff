"""A clip's player: its lanes, one a sound, all on the same time axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.metrics.onsets import sync_score
from pipeline.report.charts import Axis, Tick, label, nice_ticks
from pipeline.report.data import ReportClip, ReportSound
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
}
ALIASES = {"swapped": "swap"}


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
    spectrogram: str = ""  # address of its picture, where there is one


@dataclass(frozen=True)
class Player:
    """One clip: its picture, its lanes and the time axis that they share."""

    clip_id: str
    prompt: str
    swapped_prompt: str | None
    uri: str
    seconds: float
    impacts: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    start: str


def player(clip: ReportClip, spectrograms: bool = False) -> Player:
    """The player of a clip.

    Lanes come in the order original, true, swap, other, none, then any other condition.
    """
    sounds = {ALIASES.get(name, name): ReportSound(*sound) for name, sound in clip.sounds.items()}
    order = [*(c for c in CONDITIONS if c in sounds), *(c for c in sounds if c not in CONDITIONS)]
    lengths = [seconds_of(s.audio, s.sample_rate) for s in sounds.values()]
    seconds = max([*lengths, *clip.impacts, 0.1])
    axis = Axis(0.0, seconds)
    peak = max((peak_of(s.audio) for s in sounds.values()), default=0.0)
    return Player(
        clip_id=clip.clip_id,
        prompt=clip.prompt,
        swapped_prompt=clip.swapped_prompt,
        uri=data_uri(clip.video, "video/mp4"),
        seconds=seconds,
        impacts=tuple(
            Tick(round(100 * axis.share(t), 3), f"impact at {t:.2f} s") for t in clip.impacts
        ),
        ticks=tuple(
            Tick(round(100 * axis.share(t), 2), f"{label(t)} s") for t in nice_ticks(axis, 4)
        ),
        lanes=tuple(_lane(clip, name, sounds[name], axis, peak, spectrograms) for name in order),
        start="true" if "true" in sounds else next(iter(order), ""),
    )


def _lane(
    clip: ReportClip, name: str, sound: ReportSound, axis: Axis, peak: float, spectrograms: bool
) -> Lane:
    title, about = CONDITIONS.get(name, (name, ""))
    if name == "swap" and clip.swapped_prompt:
        about = f"“{clip.swapped_prompt}”"
    length = seconds_of(sound.audio, sound.sample_rate)
    return Lane(
        condition=name,
        title=title,
        about=about,
        uri=data_uri(to_flac(sound.audio, sound.sample_rate), "audio/flac"),
        path=waveform_path(sound.audio, peak, length / axis.high),
        onsets=tuple(_onset(float(t), clip, axis) for t in sound.onsets),
        f1=_f1(clip.impacts, sound.onsets),
        spectrogram=spectrogram_uri(sound.audio, sound.sample_rate, axis.high)
        if spectrograms
        else "",
    )


def _onset(t: float, clip: ReportClip, axis: Axis) -> Onset:
    hit = any(abs(t - impact) <= HIT_SECONDS for impact in clip.impacts)
    return Onset(round(100 * axis.share(t), 3), t, hit)


def _f1(impacts: Any, onsets: Any) -> float | None:
    """F1 at 60 ms of one sound, by the same measure as the sync table.

    None where no impact is known.
    """
    if not len(impacts):
        return None
    return sync_score([np.asarray(impacts, float)], [np.asarray(onsets, float)]).f1_60ms
