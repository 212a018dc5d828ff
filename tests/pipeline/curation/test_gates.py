"""Gates mean what they say, and those of the shipped policies what their sources publish."""

from __future__ import annotations

import operator
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation.gates import SIGNS, Condition
from pipeline.curation.policy import POLICIES, policies, select
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.warehouse.toys import make_files, run_once
from warehouse import Warehouse, field


class Scores(Stage):
    """All the facts that the shipped policies look at; some are unknown."""

    name, batch_size = "scores", 200
    names = ("duration", "silent_share", "imagebind", "ce", "cu", "pc", "pq")
    schema = pa.schema([field(name, pa.float32(), name) for name in names])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed(dict(zip(self.names, self.draw(c["clip_id"]), strict=True))) for c in clips]

    def draw(self, clip_id: str) -> list[float | None]:
        """Random facts that lie about the thresholds, one in twelve of them null."""
        rng = np.random.default_rng(int(clip_id[4:]))
        values = (rng.random(len(self.names)) ** 0.5 * [10, 0.9, 0.6, 8, 8, 8, 10]).tolist()
        return [None if rng.random() < 1 / 12 else value for value in values]


def meets(facts: dict[str, Any], column: str, sign: str, bound: float) -> bool:
    """A comparison as it is published, apart from the code of policies; unknown facts meet none."""
    if facts.get(column) is None:
        return False
    return bool(getattr(operator, sign)(np.float32(facts[column]), np.float32(bound)))


MOVA_QUALITY = [("pq", "gt", 5.0), ("cu", "gt", 4.5), ("ce", "gt", 2.5)]


def _measured(name: str) -> list[list[tuple[str, str, float]]]:
    """The gates of a policy whose thresholds on scores recipes.toy.policy writes."""
    gates = tomllib.loads((POLICIES / f"{name}.toml").read_text())["gate"]
    found = {gate["keep"][0]["column"]: gate["keep"][0].get("at_least") for gate in gates}
    return [
        [("duration", "ge", 1.0)],
        [("silent_share", "lt", 0.95)],
        [("imagebind", "ge", found["imagebind"])],
        [("pq", "ge", found["pq"])],
    ]


#: What a clip has to meet by the sources of each shipped policy: all lines, any of a line.
KEEP: dict[str, list[list[tuple[str, str, float]]]] = {
    "all": [],
    "hunyuan": [[("silent_share", "le", 0.8)]],
    "mova": [
        [("silent_share", "lt", 0.8)],
        *([line] for line in MOVA_QUALITY),
        [("imagebind", "ge", 0.2), ("desync", "le", 0.5)],
    ],
    "strict": [
        [("silent_share", "lt", 0.5)],
        *([line] for line in MOVA_QUALITY),
        [("imagebind", "ge", 0.3)],
    ],
    "toy": _measured("toy"),
    "world": _measured("world"),
}
SFT: dict[str, list[tuple[str, str, float]]] = {
    "all": [("pq", "gt", 99)],
    "hunyuan": [*MOVA_QUALITY, ("imagebind", "ge", 0.3)],
    "mova": [("imagebind", "ge", 0.3), ("pq", "gt", 6.0)],
    "strict": [("imagebind", "ge", 0.35), ("pq", "gt", 6.5)],
    "toy": [("silent_share", "lt", 0.9)],
    "world": [("silent_share", "lt", 0.9)],
}


@pytest.mark.parametrize("name", policies())
def test_the_shipped_policies_keep_what_their_sources_publish(tmp_path: Path, name: str) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 600))
    run_once(wh, [Scores()])
    fps = fingerprints([Scores()])
    facts = wh.rows("scores", fps["scores"]).to_pylist()
    expected = {
        f["clip_id"] for f in facts if all(any(meets(f, *c) for c in line) for line in KEEP[name])
    }
    fine = {f["clip_id"] for f in facts if all(meets(f, *c) for c in SFT[name])}
    assert any(f["pq"] is None for f in facts)
    assert expected
    dataset = select(wh, fps, name)
    assert set(dataset.clip_ids()) == expected
    assert set(dataset.clip_ids(subset="sft")) == expected & fine


COLUMNS: tuple[str, ...] = ("a", "b", "c")
numbers = st.sampled_from([-1.5, 0.0, 0.25, 3.0])
leaves = st.builds(
    lambda column, comparisons: Condition(column, **comparisons),
    st.sampled_from(COLUMNS),
    st.dictionaries(st.sampled_from(list(SIGNS)), numbers, min_size=1, max_size=2),
)
conditions = st.recursive(
    leaves,
    lambda parts: st.builds(
        lambda either, some: Condition(any=some) if either else Condition(all=some),
        st.booleans(),
        st.lists(parts, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
PYTHON = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
    "equals": operator.eq,
    "not_equals": operator.ne,
}


def known(condition: Condition, row: Mapping[str, Any]) -> bool | None:
    """A condition's value in three-valued logic, worked out in Python."""
    if condition.column is not None:
        value = row[condition.column]
        if value is None:
            return None
        return all(PYTHON[key](value, bound) for key, bound in condition.comparisons.items())
    values = [known(part, row) for part in condition.parts]
    decided = bool(condition.any)
    return decided if decided in values else None if None in values else not decided


@settings(deadline=None, max_examples=60)
@given(conditions, st.lists(st.tuples(*[st.none() | numbers] * 3), min_size=1, max_size=30))
def test_any_condition_means_in_sql_what_it_means_in_python(
    condition: Condition, rows: list[tuple[float | None, ...]]
) -> None:
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    schema = pa.schema([(name, pa.float64()) for name in COLUMNS])
    with duckdb.connect() as con:
        con.register("facts", pa.Table.from_pylist(named, schema))
        values = con.sql(f"select {condition.sql()} from facts").fetchall()
    assert [value for (value,) in values] == [known(condition, row) for row in named]
