"""A flipped byte is found by every reader, costs its clips another run, and never a good file."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import plan
from tests.warehouse.damage import HASHES, aside, commits, flip, gather
from tests.warehouse.toys import POLICY, facts_of, run_all, stages
from warehouse import Warehouse, compact, gc, status, verify
from warehouse.maintenance import repair
from warehouse.rows.live import Listings, run_checked

READERS: dict[str, Callable[[Warehouse], object]] = {
    "plan": lambda wh: [plan(wh, stage, HASHES) for stage in stages()],
    "publish": lambda wh: wh.publish(),
    "select": lambda wh: select(wh, HASHES, POLICY),
    "status": status,
    "compact": lambda wh: compact(wh, at_least=2),
    "rows": lambda wh: wh.rows("facts", HASHES["facts"], None),
    "features": gather,
    "repair": repair,
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_sets_a_damaged_commit_aside_by_name_and_its_clips_are_done_again(
    wh: Warehouse, calm: Warehouse, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = commits(wh, "facts")[1]
    original = flip(victim, 0.3)
    damaged = victim.read_bytes()
    with caplog.at_level(logging.WARNING, "foley.warehouse"):
        READERS[reader](wh)
    [kept] = aside(wh)
    assert kept == victim.relative_to(wh.home)
    assert (wh.home / "damaged" / kept).read_bytes() == damaged != original
    assert str(victim) in caplog.text
    assert plan(wh, stages()[0], HASHES).todo == int(victim.name.split("-")[1])
    run_all(wh, stages())
    assert facts_of(wh) == facts_of(calm)
    assert verify(wh) == []


@pytest.mark.parametrize("stage", ["clips", "facts", "tokens"])
def test_a_bit_anywhere_in_a_commit_changes_no_row(
    wh: Warehouse, calm: Warehouse, stage: str
) -> None:
    victim, right = commits(wh, stage)[0], facts_of(calm)
    for place in (0.0, 0.2, 0.4, 0.6, 0.9, 1.0):
        original = flip(victim, place)
        found = facts_of(Warehouse(wh.home))
        for name, rows in found.items():
            assert [row for row in rows if row not in right[name]] == [], (name, place)
        assert aside(wh)
        victim.write_bytes(original)
        shutil.rmtree(wh.home / "damaged")


def test_a_commit_that_was_cut_is_seen_by_its_size_alone(wh: Warehouse) -> None:
    victim = commits(wh, "facts")[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    assert [problem.path for problem in verify(wh, deep=False)] == [victim]


def test_a_query_that_ends_its_database_runs_again_in_a_new_one(wh: Warehouse) -> None:
    used: list[object] = []

    def work(_: Listings) -> int:
        with wh.cursor():
            used.append(wh._database)
        if len(used) == 1:
            raise duckdb.FatalException("database has been invalidated")
        return len(used)

    assert run_checked(wh, {"clips": ("clips", "source")}, work) == 2
    assert used[0] is not used[1]


def test_bytes_that_are_right_on_a_second_look_cost_nothing(
    wh: Warehouse, calm: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = commits(wh, "facts")[0]
    original = flip(victim, 0.3)

    def drop_cache(*_: object) -> None:
        victim.write_bytes(original)

    monkeypatch.setattr(os, "posix_fadvise", drop_cache)
    assert plan(wh, stages()[0], HASHES).todo == 0
    assert aside(wh) == []
    assert facts_of(wh) == facts_of(calm)


def test_a_disk_that_errs_once_costs_no_commit(
    wh: Warehouse, calm: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(errno.EIO, "Input/output error"), OSError(errno.EIO, "Input/output error")]
    read = pq.ParquetFile

    def open_(*args: Any, **options: Any) -> pq.ParquetFile:
        if errors:
            raise errors.pop()
        return read(*args, **options)

    monkeypatch.setattr(pq, "ParquetFile", open_)
    assert gather(wh).meta["missing"] == gather(calm).meta["missing"]
    assert aside(wh) == []


@pytest.mark.usefixtures("_large")
def test_a_reader_that_may_not_move_files_leaves_them_out(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = commits(wh, "facts")[0]
    flip(victim, 1.0)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    found = wh.rows("facts", HASHES["facts"], None)
    assert 30 - int(victim.name.split("-")[1]) <= found.num_rows < 30
    assert victim.exists()


def test_compaction_that_was_damaged_takes_no_originals_with_it(
    wh: Warehouse, calm: Warehouse
) -> None:
    """It was killed before it removed the small commits, and its own file went bad since."""
    before = commits(wh, "facts")
    compact(wh, at_least=2)
    [merged] = commits(wh, "facts")
    for path in before:
        shutil.copy(calm.home / path.relative_to(wh.home), path)
    flip(merged, 0.3)
    gc(wh, dry_run=False)
    compact(wh, at_least=2)
    assert facts_of(wh) == facts_of(calm)


def test_a_bridge_and_a_take_that_are_not_what_their_records_tell_of_are_named(
    wh: Warehouse,
) -> None:
    wh.write_record("checkpoints", "one", {"sha256": hashlib.sha256(b"weights").hexdigest()})
    bridge = wh.home / "checkpoints" / "one" / "bridge.safetensors"
    take = wh.folder("studio") / "drop" / "take.wav"
    take.parent.mkdir()
    sidecar = take.with_name("take.wav.json")
    sidecar.write_text(json.dumps({"sound": hashlib.sha256(b"drip").hexdigest()}))
    assert verify(wh) == [], "what a person has deleted is no damage"
    for path, right in ((bridge, b"weights"), (take, b"drip")):
        path.write_bytes(right)
        assert verify(wh) == []
        path.write_bytes(right[::-1])
        assert [problem.path for problem in verify(wh)] == [path]
        assert verify(wh, deep=False) == []
        path.write_bytes(right)
    sidecar.write_text("{")
    assert [problem.path for problem in verify(wh)] == [sidecar]


def test_repair_sets_aside_what_can_be_made_again_and_takes_back_what_is_right(
    wh: Warehouse, calm: Warehouse
) -> None:
    shard = next(gather(wh).path.glob("*.parquet"))
    note = wh.commits_folder("text", HASHES["text"]) / "stage.json"
    members = wh.dataset(POLICY.name).path / "members.parquet"
    victim = commits(wh, "facts")[0]
    for path in (shard, members, victim):
        flip(path, 0.3)
    note.write_text("{")
    assert len(verify(wh)) == 4
    done, left = repair(wh)
    assert {problem.path for problem in done} == {shard, note, victim}
    assert [problem.path for problem in left] == [members]
    assert not shard.parent.exists()
    assert repair(wh) == ([], left), "what is still damaged is not taken back"
    kept = wh.home / "damaged" / victim.relative_to(wh.home)
    shutil.copy(calm.home / victim.relative_to(wh.home), kept)
    shutil.copy(calm.home / members.relative_to(wh.home), members)
    assert [problem.path for problem in repair(wh)[0]] == [victim]
    for copy in (kept, kept.parent.with_name("0" * 16) / kept.name):  # there again, or not needed
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(victim, copy)
    assert repair(wh) == ([], [])
    run_all(wh, stages())
    gather(wh)
    assert verify(wh) == []
    assert facts_of(wh) == facts_of(calm)
    assert gc(wh, dry_run=False, unused=True)
    assert aside(wh) == []
