"""A stretch of a sound made anew, and the rest kept sample by sample."""

import math
import re

import numpy as np

from model.types import Audio
from pipeline.generation.times import seconds_of_text
from warehouse.errors import FoleyError

FADE = 0.03  # seconds at either end of a stretch in which the old sound gives way to the new
LEAST = 0.1  # seconds of a stretch: two fades, and something between
Span = tuple[float, float]


def read_spans(text: str) -> tuple[Span, ...]:
    """The stretches of `2.5-4.0` or `0-1,2.5-4`, in seconds; none of "". Raises FoleyError."""
    spans: list[Span] = []
    for part in text.split(",") if text else ():
        found = re.fullmatch(r"\s*([\d:.]+)\s*-\s*([\d:.]+)\s*", part)
        try:
            start, stop = (seconds_of_text(time) for time in found.groups()) if found else (0, 0)
        except ValueError:
            start = stop = 0
        if stop - start < LEAST:
            raise FoleyError(f"{part.strip()!r} is no stretch: give FROM-TO in seconds, as 2.5-4.0")
        spans.append((start, stop))
    return tuple(spans)


def latent_spans(spans: tuple[Span, ...], rate: float, length: int) -> tuple[tuple[int, int], ...]:
    """The latent frames (from, to), at `rate` a second, that the spans touch."""
    places = ((math.floor(start * rate), math.ceil(stop * rate)) for start, stop in spans)
    return tuple((start, min(stop, length)) for start, stop in places)


def spliced(old: Audio, new: Audio, spans: tuple[Span, ...], rate: int) -> Audio:
    """The old sound [channels, n], and within the spans the new one: outside not a bit differs.

    Where a span is not at the sound's own end, they are cross-faded over FADE inside it. The new
    sound is made softer where it would go beyond full scale.
    """
    made, count = old.copy(), old.shape[1]
    for start, stop in spans:
        first, last = round(start * rate), min(round(stop * rate), count)
        if first >= last:
            continue  # behind the sound's end
        rise = np.linspace(0, 1, round(FADE * rate) + 2, dtype=np.float32)[1:-1]
        weight = np.ones(last - first, np.float32)
        fade = min(len(rise), len(weight) // 2)
        if first > 0:
            weight[:fade] = rise[:fade]
        if last < count:
            weight[len(weight) - fade :] = rise[:fade][::-1]
        part = new[:, first:last]
        part = part / np.float32(max(1.0, float(np.abs(part).max(initial=0.0))))
        made[:, first:last] = (1 - weight) * old[:, first:last] + weight * part
    return made
