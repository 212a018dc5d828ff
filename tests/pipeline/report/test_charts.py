"""The charts' geometry, as properties of any data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts import MAX_POINTS, Axis, counted, histogram, lines, nice_ticks, thinned
from pipeline.report.sounds import COLUMNS, HALF_HEIGHT, waveform_path

values = st.floats(-1e6, 1e6)
any_values = st.floats(width=32)


@settings(deadline=None)
@given(values, st.floats(1e-3, 1e6), st.integers(1, 8))
def test_ticks_lie_inside_their_axis_and_are_evenly_spaced(
    low: float, span: float, count: int
) -> None:
    axis = Axis(low, low + span)
    ticks = nice_ticks(axis, count)
    assert len(ticks) <= count + 1
    assert all(-1e-6 <= axis.share(t) <= 1 + 1e-6 for t in ticks)
    gaps = np.diff(ticks)
    assert np.allclose(gaps, gaps[:1] if len(gaps) else 0)


@settings(deadline=None)
@given(st.lists(any_values, max_size=60))
def test_a_histogram_counts_every_finite_value_once(numbers: list[float]) -> None:
    chart = histogram("score", numbers)
    total = sum(int(bar.text.split()[0]) for bar in chart.bars)
    assert total == chart.count == sum(map(math.isfinite, numbers))
    for bar in chart.bars:
        assert -1e-3 <= bar.x <= 100
        assert 0 < bar.height <= chart.height
        assert abs(bar.y + bar.height - chart.height) < 0.02


def test_thresholds_are_drawn_where_they_lie() -> None:
    axis = Axis(0.0, 4.0)
    chart = counted("score", [3, 0, 1], axis, most=6)
    bounds = axis.marks([("keep ≥ ", 1.0), ("keep < ", 3.5)])
    assert [(bound.at, bound.label) for bound in bounds] == [
        (25.0, "keep ≥ 1"),
        (87.5, "keep < 3.5"),
    ]
    assert [bar.height for bar in chart.bars] == pytest.approx([55, 110 / 6], abs=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(values, any_values), max_size=50))
def test_curves_stay_in_their_box(points: list[tuple[float, float]]) -> None:
    chart = lines("loss", [("a", "true", points), ("b", "none", [])])
    drawn = chart.curves[0].points
    assert len(drawn) == sum(math.isfinite(y) for _, y in points)
    assert all(-0.01 <= x <= 100.01 and -0.1 <= y <= chart.height + 0.1 for x, y in drawn)


@settings(deadline=None)
@given(st.integers(0, 5000))
def test_long_curves_are_thinned_within_their_range(length: int) -> None:
    points = [(float(i), float(i % 7)) for i in range(length)]
    kept = thinned(points)
    assert len(kept) == min(length, MAX_POINTS)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert all(0 <= x <= length - 1 and 0 <= y <= 6 for x, y in kept)


@settings(deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1), st.floats(0.01, 2))
def test_a_waveform_fills_its_share_of_the_box(length: int, share: float, peak: float) -> None:
    audio = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    path = waveform_path(audio, peak, share)
    assert path.startswith("M")
    if path.endswith("Z"):
        points = [tuple(map(float, p.split())) for p in path[1:-1].split("L")]
        assert all(0 <= x <= COLUMNS * share + 0.5 and 0 <= y <= 2 * HALF_HEIGHT for x, y in points)
