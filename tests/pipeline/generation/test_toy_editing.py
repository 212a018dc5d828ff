"""Retakes and reference sounds of the toy are in time with the picture, on a few clips.

All figures: `uv run python -m tests.benchmarks toy_editing`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.sampling.request import Reference
from pipeline.generation.asking import retake_of
from pipeline.generation.options import sample_settings
from pipeline.generation.retake import spliced
from tests.benchmarks import toy_editing
from tests.benchmarks.toy_editing import Toy


@pytest.mark.slow
def test_a_retake_and_a_sound_of_a_reference_follow_the_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With another's video F1 is about 0.2 (README)."""
    monkeypatch.setattr(toy_editing, "CLIPS", 6)
    toy, spans = Toy.load(), ((1.0, 3.0),)
    fast = sample_settings(toy.foley.preset, steps=8)
    asked = toy.requests([clip.prompt for clip in toy.clips])
    first = toy.foley.generate(asked, fast)
    again = [
        replace(one, seed=one.seed + 1000, retake=retake_of(toy.foley, sound, spans))
        for one, sound in zip(asked, first, strict=True)
    ]
    like = [
        replace(
            one, prompt="", reference=Reference(toy.foley.encode(np.roll(sound, 9000, 1)), 0.85)
        )
        for one, sound in zip(asked, first, strict=True)
    ]
    made = toy.foley.generate([*again, *like], fast)
    rate = toy.foley.preset.sample_rate
    retakes = [spliced(old, new, spans, rate) for old, new in zip(first, made[:6], strict=True)]
    assert toy.f1(retakes, spans[0]) > 0.75
    assert toy.f1(made[6:]) > 0.65
