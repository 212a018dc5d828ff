"""A catalog that grew from the one before holds what one written from nothing does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Passed
from tests.warehouse.toys import POLICY, Text, make_files, run_all, run_once, stages
from warehouse import Warehouse, compact, query, release
from warehouse.catalog import build, contents
from warehouse.catalog.contents import make
from warehouse.catalog.query import connect

TABLES = """
    select schema_name as s, table_name as t from duckdb_tables() union
    select schema_name, view_name from duckdb_views() where not internal order by all"""


def everything(wh: Warehouse) -> dict[str, list[str]]:
    """All rows of all tables and views, but for the catalog's own notes."""
    with connect(wh.home) as con:
        found = [f'{schema}."{table}"' for schema, table in con.execute(TABLES).fetchall()]
        return {name: sorted(map(str, con.execute(f"from {name}").fetchall())) for name in found}


def ingest(wh: Warehouse, count: int, first: int = 0) -> None:
    wh.ingest(make_files(wh.home.parent / "media", count, first))


def replace_a_file(wh: Warehouse) -> None:
    (wh.home.parent / "media" / "0003.bin").write_bytes(b"another" + bytes([11]))
    rows = wh.clips(["path", "source", "source_video", "prompt", "url"], status=None).to_pylist()
    rows[4] |= {"prompt": "another"}
    wh.ingest(pa.Table.from_pylist(rows))


def fail_and_select(wh: Warehouse) -> None:
    run_once(wh, stages())
    select(wh, fingerprints(stages()), POLICY)


def plan_otherwise(wh: Warehouse) -> None:
    run_all(wh, stages(gain=2.0))
    wh.write_record("checkpoints", "c", {"steps": 3, "seed": None})


def take_one_away(wh: Warehouse) -> None:
    commit = wh.listing("text", fingerprints(stages())["text"]).good[0]
    commit.path.unlink()


EVENTS: dict[str, Callable[[Warehouse], Any]] = {
    "new clips": lambda wh: ingest(wh, 6, 36),
    "their rows": lambda wh: run_once(wh, stages()),
    "failed again, a version": fail_and_select,
    "compaction": lambda wh: compact(wh, at_least=2),
    "a replaced file, a prompt": replace_a_file,
    "their rows now": lambda wh: run_once(wh, stages()),
    "released": lambda wh: release(wh, "facts"),
    "rows and compaction": lambda wh: (run_all(wh, stages()), compact(wh, at_least=2)),
    "other settings, a record": plan_otherwise,
    "back again": lambda wh: run_all(wh, stages()),
    "a stage": lambda wh: run_all(wh, [*stages(), Later()]),
    "lost rows": take_one_away,
}


#: After these the catalog is compared with one that is written from nothing.
COMPARED = (
    "failed again, a version",
    "their rows now",
    "rows and compaction",
    "a stage",
    "lost rows",
)


class Later(Text):
    name = "later"
    schema = Text.schema.set(0, Text.schema.field(0).with_name("n_later"))

    def process(self, clips: Any) -> Any:
        return [Passed({"n_later": 1}) for _ in clips]


def test_a_grown_catalog_is_that_of_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wh = Warehouse(tmp_path / "home")
    ingest(wh, 12)
    run_once(wh, stages())
    wh.publish()
    written: list[bool] = []
    original = build._written

    def noted(*arguments: Any) -> bool:
        done = original(*arguments)
        written.append(done and arguments[2] is not None)
        return done

    for what, happen in EVENTS.items():
        happen(wh)
        with monkeypatch.context() as patch:
            patch.setattr(build, "_written", noted)
            written.clear()
            wh.publish()
        assert written == ([False, False] if what == "lost rows" else [True]), what
        if what not in COMPARED:
            continue
        grown = everything(wh)
        (wh.home / "catalog.duckdb").unlink()
        wh.publish()
        anew = everything(wh)
        assert grown.keys() == anew.keys()
        for table in anew:
            assert grown[table] == anew[table], f"{table} after {what}"


def test_a_catalog_of_another_kind_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wh = Warehouse(tmp_path / "home")
    ingest(wh, 5)
    for module in (build, contents):
        monkeypatch.setattr(module, "FORMAT", "0")
    monkeypatch.setattr(build, "make", lambda con: (make(con), con.execute("delete from meta")))
    wh.publish()
    monkeypatch.undo()
    wh.publish()
    assert query(wh.home, "select value from meta where key = 'format'").num_rows == 1


def test_truth_is_json(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    rows = make_files(tmp_path / "media", 3).to_pylist()
    for row, truth in zip(rows, ('{"material": "wood"}', "no json", None), strict=True):
        row["truth"] = truth
    wh.ingest(pa.Table.from_pylist(rows))
    wh.publish()
    sql = "select truth->>'material' as m, typeof(truth) as t from clips order by clip_id"
    assert query(wh.home, sql).to_pylist() == [
        {"m": material, "t": "JSON"} for material in ("wood", None, None)
    ]


def test_a_copied_home_grows_too(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    ingest(wh, 5)
    run_all(wh, stages())
    wh.publish()
    other = Warehouse(shutil.copytree(wh.home, tmp_path / "other"))
    other.publish()
    files = query(other.home, "select distinct file from commits").to_pylist()
    assert all(Path(row["file"]).is_relative_to(other.home) for row in files)


def test_a_home_in_which_nothing_was_planned_grows_too(tmp_path: Path) -> None:
    """A download that was refused leaves such a one, and so does a first look at the clips."""
    wh = Warehouse(tmp_path / "home")
    wh.publish()
    wh.write_record("runs", "refused", {"flow": "download", "state": "failed"})
    wh.publish()
    ingest(wh, 5)
    wh.publish()
    assert query(wh.home, "select count(*) as n from clips").to_pylist() == [{"n": 5}]
