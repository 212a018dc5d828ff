"""Takes over one picture: where cuts are, what is heard first, and whose words are text."""

from __future__ import annotations

import re

import numpy as np

from pipeline.report.players import ReportClip, ReportSound
from pipeline.report.takes import takes_html

SECONDS, RATE = 4.0, 8000


def page(prompt: str = "rain") -> str:
    sound = ReportSound(np.zeros((2, int(SECONDS * RATE)), np.float32), RATE, [1.0])
    clip = ReportClip(
        "clip.mp4", prompt, b"", {"original": sound, "Seed 0": sound, "Seed 1": sound}
    )
    return takes_html(clip, "/files/small.mp4", "Seed 1", [1.0, 3.0])


def test_cuts_are_marked_where_they_are() -> None:
    assert re.findall(r'class="cut" style="left: ([\d.]+)%', page()) == ["25.0", "75.0"]


def test_the_sound_that_is_asked_for_is_heard_first_over_the_picture_of_that_address() -> None:
    html = page()
    assert re.findall(r'value="([^"]+)" checked', html) == ["Seed 1"]
    assert re.findall(r"<video[^>]* src=\"([^\"]+)\"", html) == ["/files/small.mp4"]


def test_a_prompt_is_text_and_no_code() -> None:
    assert "<script>alert" not in page("<script>alert(1)</script>")
