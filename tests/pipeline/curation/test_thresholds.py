"""The bounds of gates: what there is of them, moved, and written back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.curation.gates import Condition, Gate, thresholds
from pipeline.curation.policy import POLICIES, load_policy
from recipes.toy.policy import rewritten, with_bounds


def test_every_bound_of_a_gate_is_a_threshold_and_can_be_moved() -> None:
    extra = Condition("bandwidth_hz", at_least=-1.5, below=9)
    other = Condition(any=(Condition("static", equals=False), extra))
    gates = (*load_policy("mova").gates, Gate("x", (other,)))
    bounds = [(t.column, t.comparison, t.bound) for t in thresholds(gates)]
    assert bounds == [
        ("silent_share", "below", 0.8),
        ("pq", "above", 5.0),
        ("cu", "above", 4.5),
        ("ce", "above", 2.5),
        ("imagebind", "at_least", 0.2),
        ("desync", "at_most", 0.5),
        ("bandwidth_hz", "at_least", -1.5),
        ("bandwidth_hz", "below", 9.0),
    ]
    assert (
        str(gates[-1].condition) == "static = false or (bandwidth_hz ≥ -1.5 and bandwidth_hz < 9)"
    )
    moved = thresholds(gates)[-1].moved(7.25)
    assert str(moved.condition) == "static = false or (bandwidth_hz ≥ -1.5 and bandwidth_hz < 7.25)"


def test_thresholds_are_written_into_the_policys_file_with_a_higher_version(tmp_path: Path) -> None:
    text, before = (POLICIES / "toy.toml").read_text(), load_policy("toy")
    after = with_bounds(before, {"imagebind": 0.125, "pq": 0.125})
    assert [t.bound for t in thresholds(after.gates)] == [1.0, 0.95, 0.125, 0.125]
    (tmp_path / "new.toml").write_text(rewritten(text, before, after))
    assert load_policy(str(tmp_path / "new.toml")) == replace(after, version=before.version + 1)
    (tmp_path / "same.toml").write_text(rewritten(text, before, before))
    assert load_policy(str(tmp_path / "same.toml")) == before
