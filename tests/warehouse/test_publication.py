"""The catalog while others plan, after careless notebooks, and in older versions of DuckDB."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import POLICY, make_files, run_all, stages
from warehouse import FoleyError, Warehouse, query
from warehouse.catalog import build, contents

OLDER = ("1.0.0", "1.2.2")  # the first with this storage format, and one halfway
COUNTS = "select count(*) as clips, count(distinct fingerprint) as prints from history.facts"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("published")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 12))
    run_all(wh, stages())
    select(wh, fingerprints(stages()), POLICY)
    return wh


@pytest.fixture
def wh(published: Warehouse, tmp_path: Path) -> Warehouse:
    shutil.copytree(published.home, tmp_path / "home")
    wh = Warehouse(tmp_path / "home")
    wh.publish()  # the files here are others
    return wh


def test_stages_planned_during_a_build_come_with_the_next_one(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = query(wh.home, COUNTS).to_pylist()
    grow_clips = contents.grow_clips

    def while_others_plan(*arguments: Any) -> Any:
        other = Warehouse(wh.home)
        for stage in stages(gain=3.0):
            plan(other, stage, fingerprints(stages(gain=3.0)))
        return grow_clips(*arguments)

    wh.write_record("runs", "news", {"flow": "curate"})
    monkeypatch.setattr(contents, "grow_clips", while_others_plan)
    wh.publish()
    assert query(wh.home, COUNTS).to_pylist() == before
    assert query(wh.home, "from facts").num_rows == 12
    monkeypatch.undo()
    wh.publish()
    assert query(wh.home, "select stage from fingerprints where stage = 'facts'").num_rows == 2
    assert query(wh.home, "from facts").num_rows == 0, "nothing is done yet under what is planned"


def test_a_publication_that_fails_is_tried_again_and_then_said(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = [KeyError("facts/0123")]
    swap_in = build.swap_in

    def fails(*arguments: Any) -> Path:
        if failures:
            raise failures.pop()
        return swap_in(*arguments)

    monkeypatch.setattr(build, "swap_in", fails)
    wh.write_record("runs", "news", {"flow": "curate"})
    assert wh.publish_if_possible()
    assert caplog.text == ""
    assert query(wh.home, "select id from runs").to_pylist() == [{"id": "news"}]
    wh.write_record("runs", "more", {"flow": "curate"})
    failures += [KeyError("facts/0123"), KeyError("facts/0123")]
    assert not wh.publish_if_possible()
    assert "KeyError" in caplog.text
    failures.append(RuntimeError("Query interrupted"))  # what DuckDB makes of Ctrl-C
    with pytest.raises(RuntimeError, match="interrupted"):
        wh.publish_if_possible()


CARELESS = """
import duckdb, os, signal, sys
con = duckdb.connect(sys.argv[1])
con.execute("set checkpoint_threshold = '1TB'")
con.execute("delete from clips")
con.execute("delete from dataset_rows")
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
con.close()
"""


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_a_notebook_that_writes_to_the_catalog_harms_nobody_for_long(
    wh: Warehouse, end: str
) -> None:
    catalog = wh.home / "catalog.duckdb"
    count = "select count(*) as n from clips join dataset_members using (clip_id)"
    clips = query(wh.home, count).to_pylist()
    assert clips[0]["n"]
    assert catalog.stat().st_mode & 0o777 == 0o444
    catalog.chmod(0o644)  # as it is for root, or by somebody who insists
    done = subprocess.run([sys.executable, "-c", CARELESS, str(catalog), end], check=False)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0)
    log = catalog.with_name("catalog.duckdb.wal")
    assert log.exists() == (end == "killed")
    if end == "closed":
        assert query(wh.home, "from clips").num_rows == 0, "the notebook did what it was told"
    before = catalog.stat().st_ino
    wh.publish()
    assert not log.exists()
    assert query(wh.home, count).to_pylist() == clips
    assert (catalog.stat().st_ino == before) == (end == "killed"), "what is whole stays"


def test_a_reader_sweeps_the_log_of_a_writer_that_was_killed(wh: Warehouse) -> None:
    wh.write_record("runs", "news", {"flow": "curate"})
    catalog = wh.home / "catalog.duckdb"
    subprocess.run([sys.executable, "-c", CARELESS, str(catalog), "killed"], check=False)
    log = catalog.with_name("catalog.duckdb.wal")
    stray = log.read_bytes()
    wh.publish()
    log.write_bytes(stray)  # the notebook of an older catalog goes on
    assert query(wh.home, "from clips").num_rows == 12


def test_the_hash_of_what_was_published_is_known(wh: Warehouse) -> None:
    catalog = wh.home / "catalog.duckdb"
    raw = bytearray(catalog.read_bytes())
    raw[len(raw) // 2] ^= 1
    stat = catalog.stat()
    catalog.chmod(0o644)
    catalog.write_bytes(raw)
    os.utime(catalog, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    wh.publish()
    assert catalog.stat().st_ino != stat.st_ino


LOOK = """
import duckdb, json, sys
con = duckdb.connect(sys.argv[1], read_only=True)
names = [row[0] for row in con.execute(
    "select table_name from information_schema.tables where table_schema = 'main'").fetchall()]
counts = {name: con.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}
print(json.dumps(counts))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_older_duckdb_reads_every_table_and_view(wh: Warehouse, version: str) -> None:
    older = ["uv", "run", "-q", "--no-project", "--with", f"duckdb=={version}", "python", "-c"]
    there = subprocess.run([*older, "import duckdb"], capture_output=True, text=True, check=False)
    if there.returncode:
        pytest.skip(f"duckdb {version} is not to be had: {there.stderr.strip()[-200:]}")
    catalog = str(wh.home / "catalog.duckdb")
    looked = subprocess.run([*older, LOOK, catalog], capture_output=True, text=True, check=False)
    assert looked.returncode == 0, looked.stderr[-2000:]
    counts = json.loads(looked.stdout)
    assert counts["clips"] == 12
    assert counts["facts"] > 0
    with duckdb.connect(catalog, read_only=True) as con:
        mine = {
            name: con.execute(f'select count(*) from "{name}"').fetchall()[0][0] for name in counts
        }
    assert counts == mine


def test_a_folder_in_the_place_of_the_catalog_is_told_of(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path)
    (tmp_path / "catalog.duckdb").mkdir()
    with pytest.raises(FoleyError, match=r"cannot write .*catalog\.duckdb: a folder has that name"):
        wh.publish()
    (tmp_path / "catalog.duckdb").rmdir()
    assert wh.publish().is_file()
