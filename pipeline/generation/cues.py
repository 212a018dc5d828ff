"""A cue sheet: which prompt counts when, from a command line, a CSV or an editor's EDL."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from model.sampling.request import Stretch
from pipeline.generation.times import frames_of, seconds_of_text
from pipeline.media import printable
from pipeline.tables import read_table
from warehouse.errors import FoleyError

SNAP = 0.25  # seconds by which a cue may miss the cut that it is meant for
LEAST = 0.25  # seconds of a cue
_SPAN = re.compile(r"([\d:.]+)\s*-\s*([\d:.]+)\s+(.+)", re.DOTALL)
_COLUMNS = {"start": ("in", "from"), "end": ("out", "to"), "prompt": ("caption", "text", "name")}
_EVENT = re.compile(r"^\w+\s+.*?(\S+:\S+)\s+(\S+:\S+)\s*$")  # with the record times at its end
_MARKS = (r"\|M:([^|]+)", r"\* LOC: \S+\s+\S+\s+(.+)", r"\* (?:COMMENT|FROM CLIP NAME):\s*(.+)")


@dataclass(frozen=True)
class Cue:
    """From when to when, in seconds, a prompt counts."""

    start: float
    end: float
    prompt: str


def read_cues(text: str, fps: float | None = None, timecode: str | None = None) -> list[Cue]:
    """Cues in order.

    Args:
        text: `0-3.2 footsteps on gravel; 3.2-6 door slams`, or the name of a .csv (start, end,
            prompt) or .edl file. Times are seconds, or minutes and hours with colons.
        fps: frames a second of the video, which an EDL counts in.
        timecode: of the video's first frame, where an EDL's times start; its first event's hour
            where there is none.

    Raises:
        FoleyError: a line that is no cue, or cues that overlap; named with its place.
    """
    kind = Path(text).suffix.lower() if len(text) < 4096 else ""
    if kind == ".csv":
        rows = read_table(Path(text), _COLUMNS, needed=("start", "end", "prompt")).rows
        where = [f"{text}, line {number}" for number, _ in rows]
        parts = [(row["start"], row["end"], row["prompt"]) for _, row in rows]
        cues = [_cue(part, place) for part, place in zip(parts, where, strict=True)]
    elif kind == ".edl":
        cues = list(_events(Path(text), fps or 25.0, timecode))
    else:
        cues = [_of_text(part.strip()) for part in text.split(";") if part.strip()]
    if not cues:
        raise FoleyError(f"{text!r}: holds no cue: give FROM-TO PROMPT, as in 0-3.2 footsteps")
    for before, after in pairwise(cues):
        if after.start < before.end - 1e-6:
            raise FoleyError(
                f"cue {after.prompt!r} starts at {after.start:g} s, before {before.prompt!r} ends"
            )
    return cues


def _of_text(part: str) -> Cue:
    found = _SPAN.fullmatch(part)
    if not found:
        raise FoleyError(f"{part!r} is no cue: give FROM-TO PROMPT, as in 0-3.2 footsteps")
    return _cue((found[1], found[2], found[3]), repr(part))


def _cue(part: tuple[str, str, str], where: str) -> Cue:
    start, end, prompt = part
    advice = ": write decimals with a point" if "," in start + end else ""
    wrong = f"{where}: {start!r} to {end!r} are no times in seconds{advice}"
    try:
        cue = Cue(seconds_of_text(start), seconds_of_text(end), prompt.strip())
    except ValueError:
        raise FoleyError(wrong) from None
    if not math.isfinite(cue.end - cue.start):
        raise FoleyError(wrong)
    if cue.end - cue.start < LEAST:
        raise FoleyError(f"{where}: a cue lasts {LEAST:g} s at least")
    return cue


def _events(path: Path, fps: float, timecode: str | None) -> Iterator[Cue]:
    """Events of a CMX3600 EDL, with the words of their markers, comments or clips.

    A marker of one frame counts up to the next.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoleyError(f"{printable(path)}: cannot be read as EDL: {error}") from None
    found: list[tuple[Fraction, Fraction, str]] = []
    rate = Fraction(fps)
    for number, line in enumerate(lines, 1):
        if event := _EVENT.match(line):
            where = f"{printable(path)}, line {number}"
            begin, end = (frames_of(code, fps, where) / rate for code in event.groups())
            found.append((begin, end, ""))
        for mark in _MARKS:
            if found and not found[-1][2] and (words := re.search(mark, line)):
                found[-1] = (*found[-1][:2], words[1].strip())
    if found:
        zero = found[0][0] // 3600 * 3600
        if timecode:
            zero = frames_of(timecode, fps, timecode) / rate
        last = [start for start, _, _ in found[1:]] + [found[-1][1] + 3600]
        for (start, end, words), after in zip(found, last, strict=True):
            until = after if (end - start) * rate <= 1 else end
            yield Cue(float(start - zero), float(until - zero), words)  # short shots are no mistake


def within(cue: Cue, seconds: float) -> Cue | None:
    """The part of a cue that lies in a sound of so many seconds; None where it is too short."""
    start, end = max(cue.start, 0.0), min(cue.end, seconds)
    return None if end - start < min(LEAST, seconds) else replace(cue, start=start, end=end)


def stretches_of(
    cues: Sequence[Cue], cuts: Sequence[float], prompt: str, seconds: float
) -> tuple[Stretch, ...]:
    """The parts of a sound, each with one prompt and in one scene.

    Cues count within the sound alone. One that starts or ends beside a cut does so at it; between
    cues `prompt` counts. One part, which is what there is without cues and cuts, is none.
    """
    edges = {0.0: False} | dict.fromkeys(cuts, True)
    spans: list[Cue] = []
    for cue in filter(None, (within(cue, seconds) for cue in cues)):
        start, end = (_snapped(time, cuts) for time in (cue.start, cue.end))
        if start == end:  # a short cue over a cut, which is meant for no other time
            start, end = cue.start, cue.end
        spans.append(Cue(start, end, cue.prompt))
        edges = dict.fromkeys((start, end), False) | edges
    stretches: list[Stretch] = []
    for start, end in pairwise([*sorted(t for t in edges if t < seconds), seconds]):
        middle = (start + end) / 2
        own = next((cue.prompt for cue in spans if cue.start <= middle < cue.end), prompt)
        if edges[start] or not stretches or stretches[-1].prompt != own:
            stretches.append(Stretch(start, own, cut=edges[start]))
    return tuple(stretches) if len(stretches) > 1 or spans else ()


def _snapped(time: float, cuts: Sequence[float]) -> float:
    near = min(cuts, key=lambda cut: abs(cut - time), default=time)
    return near if abs(near - time) <= SNAP else time
