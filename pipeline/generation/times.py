"""Times as people and editors write them."""

import re
from fractions import Fraction

from warehouse.errors import FoleyError


def seconds_of_text(text: str) -> float:
    """Seconds of 3.2, 1:03.2 or 0:01:03.2. Raises ValueError."""
    total = 0.0
    for part in text.strip().split(":"):
        total = 60 * total + float(part)
    return total


def frames_of(code: str, fps: float, where: str) -> int:
    """Frames from 00:00:00:00 to a timecode; `;` before the frames is drop frame (SMPTE 12M).

    Raises FoleyError for what is no timecode.
    """
    parts = re.fullmatch(r"(\d+):(\d+):(\d+)([:;.])(\d+)", code)
    if not parts:
        raise FoleyError(f"{where}: {code!r} is no timecode")
    hours, minutes, seconds, frames = (int(parts[i]) for i in (1, 2, 3, 5))
    rate = round(fps)
    total = (3600 * hours + 60 * minutes + seconds) * rate + frames
    if parts[4] in ";.":  # two numbers (four at 60) of each minute are left out, but of each tenth
        whole = 60 * hours + minutes
        total -= rate // 15 * (whole - whole // 10)
    return total


def timecode_at(frame: int, rate: Fraction, drop: bool) -> str:
    """The timecode of a frame that is counted from 00:00:00:00 on, in drop frame or not."""
    each = round(rate)
    if drop:  # counted on with the numbers that are left out
        left_out, tenth = each // 15, 600 * each - 9 * (each // 15)
        tenths, rest = divmod(frame, tenth)
        minutes = max(0, rest - left_out) // (60 * each - left_out)
        frame += left_out * (9 * tenths + minutes)
    seconds, frames = divmod(frame, each)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours % 24:02d}:{minutes:02d}:{seconds:02d}{';' if drop else ':'}{frames:02d}"
