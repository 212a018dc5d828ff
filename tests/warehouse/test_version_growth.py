"""Many versions of a dataset: each as it was selected, at the cost of what is new in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warehouse import Dataset, Warehouse, query, verify
from warehouse.datasets.members import MEMBERS
from warehouse.datasets.versions import Selected, write_dataset

CLIPS, VERSIONS = 1000, 20
POLICY = {"name": "p", "val": 0.0, "test": 0.0, "seed": 0}


def row(number: int, split: str = "train") -> dict[str, Any]:
    kept = number % 5 > 0
    return {
        "clip_id": f"clip{number:06d}",
        "source_video": f"video{number // 3}",
        "sha256": f"{number * 2654435761 % 2**32:08x}" * 8 if kept else None,
        "kept": kept,
        "reason": None if kept else "quiet",
        "split": split if kept else None,
        "sft": number % 7 == 0 and kept,
        "ablation": False,
    }


def written(wh: Warehouse, rows: dict[int, dict[str, Any]], name: str = "grown") -> Dataset:
    table = pa.Table.from_pylist([rows[n] for n in sorted(rows)], schema=MEMBERS)
    left = [{"step": step, "dropped": 0, "left": len(rows)} for step in ("all", "clips")]
    return write_dataset(wh, table, Selected(name, POLICY, {}, left))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, list[tuple[Dataset, Any]]]:
    """Every version with the rows that it was written with; the catalog is published between."""
    wh = Warehouse(tmp_path_factory.mktemp("grown"))
    rng = np.random.default_rng(0)
    rows = {number: row(number) for number in range(CLIPS)}
    versions = [(written(wh, rows), dict(rows))]
    for version in range(1, VERSIONS):
        rows[CLIPS + version] = row(CLIPS + version)  # one clip comes,
        del rows[rng.choice(list(rows)).item()]  # one goes,
        moved = rng.choice(list(rows)).item()  # and one moves
        rows[moved] = row(moved, "val")
        versions.append((written(wh, rows), dict(rows)))
        if version in (5, 6):
            wh.publish()
    wh.publish()
    return wh, versions


def test_every_version_has_the_rows_it_was_written_with(
    grown: tuple[Warehouse, list[tuple[Dataset, Any]]],
) -> None:
    wh, versions = grown
    for dataset, rows in versions:
        expected = [rows[number] for number in sorted(rows)]
        assert wh.dataset(dataset.version).members(kept=None).to_pylist() == expected
    assert verify(wh, deep=True) == []


def test_a_version_costs_kilobytes(grown: tuple[Warehouse, list[tuple[Dataset, Any]]]) -> None:
    wh, versions = grown
    files = {path.stat().st_ino: path.stat() for path in wh.home.glob("datasets/*/*")}
    first = next(iter(versions))[0]
    whole = sum((first.path / name).stat().st_size for name in ("members.parquet", "dataset.json"))
    assert sum(stat.st_size for stat in files.values()) < 3 * whole + VERSIONS * 8_000
    assert max(len(dataset.shards) for dataset, _ in versions) <= 8


def test_the_catalog_has_every_version_and_each_row_once(
    grown: tuple[Warehouse, list[tuple[Dataset, Any]]],
) -> None:
    wh, versions = grown
    sql = "from dataset_members where version = $version order by clip_id"
    for dataset, rows in (versions[0], versions[6], versions[-1]):
        expected = [{"version": dataset.version} | rows[number] for number in sorted(rows)]
        assert query(wh.home, sql, {"version": dataset.version}).to_pylist() == expected
    counts = query(wh.home, "select version, count(*) as n from dataset_members group by version")
    assert {r["version"]: r["n"] for r in counts.to_pylist()} == {
        dataset.version: len(rows) for dataset, rows in versions
    }
    stored = query(wh.home, "select count(*) as n from dataset_rows").to_pylist()[0]["n"]
    assert stored <= CLIPS + 3 * VERSIONS


def test_the_same_members_are_the_same_version(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path)
    first = written(wh, {n: row(n) for n in range(10)})
    second = written(wh, {n: row(n) for n in range(11)})
    assert written(wh, {n: row(n) for n in range(10)}) == first
    assert [dataset.version for dataset in wh.datasets()] == [first.version, second.version]
    assert wh.dataset("grown") == first
    third = written(wh, {n: row(n) for n in range(12)})
    assert (third.number, third.previous, third.diff["added"]) == (3, first.version, 1)
