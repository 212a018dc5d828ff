"""Table 2's published rows, and the clips that the page chooses: neither needs an evaluation."""

from __future__ import annotations

from pipeline.evaluation import tables
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.page import worst_and_best


def test_the_published_rows_are_those_of_the_paper() -> None:
    rows = {row["system"]: row for row in tables.published()["row"]}
    assert len(rows) == 6
    ours = rows["Foley Control (the paper's)"]
    measured = [key for key, metric in METRICS.items() if metric.in_table2 and key != "is"]
    assert [ours[key] for key in measured] == [
        2.93, 2.59, 0.20, 5.89, 31.10, 383.99, 0.32,
    ]  # fmt: skip


def test_the_worst_and_best_clips_are_chosen_by_all_clip_metrics() -> None:
    rows = {f"c{i}": {"kl_panns": float(i), "ib": -float(i)} for i in range(20)}
    chosen = worst_and_best({"a": rows}, list(rows), count=4)
    assert chosen == ["c19", "c18", "c1", "c0"]
