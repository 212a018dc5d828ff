"""What the report is put together from, for any value: figures, the verdict and sounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.results import figures
from pipeline.report import ReportData, render_report
from pipeline.report.demo import verdict
from pipeline.report.figures import figure
from pipeline.report.sounds import to_flac
from tests.pipeline.report.test_report import RESULTS, Page, samples_of


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_figure_keeps_its_exact_value(value: float) -> None:
    [(exact, text)] = Page(figure(value)).figures
    assert float(exact) == float(value)
    assert text == str(value)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.9", True])
def test_what_is_no_figure_is_a_dash(value: Any) -> None:
    shown = Page(figure(value, "f1"))
    assert not shown.figures
    assert shown.text == "\u2013"


@settings(deadline=None)
@given(st.integers(1, 2), st.integers(1, 5000), st.sampled_from([16000, 44100]), st.integers(0, 99))
def test_flac_keeps_every_sample(channels: int, length: int, rate: int, seed: int) -> None:
    audio = np.random.default_rng(seed).uniform(-1, 1, (channels, length)).astype(np.float32)
    np.testing.assert_allclose(samples_of(to_flac(audio, rate)), audio, atol=0.51 / 32767)


scores_of = st.floats(0, 1)
#: What is a proof: of procedural clips, and of worlds of each level.
REACHED: dict[int | None, tuple[float, float]] = {
    None: (0.8, 0.25),
    1: (0.8, 0.35),
    2: (0.65, 0.35),
    3: (0.5, 0.35),
}


@settings(deadline=None)
@given(scores_of, scores_of, scores_of, st.sampled_from([*REACHED]))
def test_the_verdict_follows_the_figures(
    true: float, other: float, none: float, level: int | None
) -> None:
    sync = {
        name: {"f1_60ms": value}
        for name, value in zip(("true", "other", "none"), (true, other, none), strict=True)
    }
    found = verdict({"sync": sync} | ({} if level is None else {"level": level}))
    at_least, at_most = REACHED[level]
    assert (found == "proved") == (true >= at_least and max(other, none) <= at_most)
    if true <= max(other, none):
        assert found == "unproved"


counts = st.integers(0, 10**6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=8))
def test_the_funnel_draws_all_clips_to_scale_and_hides_no_dropped_clip(
    stages: list[tuple[int, int, int]],
) -> None:
    funnel = [
        {"stage": "s", "passed": p, "rejected": r, "failed": f, "reasons": {"a": r, "b": f}}
        for p, r, f in stages
    ]
    page = Page(render_report(ReportData({"funnel": funnel})))
    bars = [
        (a.get("title"), float(a["style"].removeprefix("flex-grow: ")))
        for a in page.all("i")
        if "style" in a
    ]
    names = ("passed", "rejected", "failed")
    for stage in stages:
        parts = [(name, n) for name, n in zip(names, stage, strict=True) if n]
        assert bars[: len(parts)] == parts
        assert bars[len(parts)] == (None, max(0, sum(stages[0]) - sum(stage)))
        del bars[: len(parts) + 1]
    assert not bars
    assert "i[title] { min-width:" in page.raw["style"]


def test_prompts_that_were_not_swapped_are_no_part_of_it() -> None:
    results = {**RESULTS, "prompt_swap": {"material_accuracy": None, "f1_60ms": None}}
    for told, shown in ((RESULTS, True), (results, False)):
        page = render_report(ReportData(results=told, loss=[], validation=[], clips=[]))
        assert [part in page for part in ('id="swap"', "#swap")] == [shown] * 2
    assert "prompt swap: 95% take the new material, F1 60 ms 0.889" in figures(RESULTS)
    assert "prompt swap" not in figures(results)


def test_what_is_known_of_worlds_alone_is_said_of_them() -> None:
    assert "of worlds" not in figures(RESULTS)
    told = figures(RESULTS | {"worlds": {"force": 0.7123, "cause_there": 0.5, "pairs": 16}})
    assert told.endswith("\nof worlds: force 0.7123, cause there 0.5, pairs 16")
