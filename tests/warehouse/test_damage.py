"""A flipped byte is found by every reader, costs its clips another run, and never a good file."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import POLICY, facts_of, make_files, run_all, stages
from warehouse import FeatureSet, FoleyError, Warehouse, compact, gc, query, status, verify
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.maintenance import repair
from warehouse.rows.live import Listings, run_checked

HASHES = fingerprints(stages())


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """30 clips, all stages done, a dataset."""
    folder = tmp_path_factory.mktemp("calm")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 30))
    run_all(wh, stages())
    select(wh, HASHES, POLICY)
    return wh


@pytest.fixture
def wh(calm: Warehouse, tmp_path: Path) -> Warehouse:
    """A copy that this process has not looked at."""
    shutil.copytree(calm.home, tmp_path / "home")
    return Warehouse(tmp_path / "home")


def commits(wh: Warehouse, stage: str) -> list[Path]:
    return [commit.path for commit in wh.listing(stage, HASHES.get(stage, "source")).good]


def flip(path: Path, place: float) -> bytes:
    """Change one bit, at a share of the file's length; returns what was there."""
    raw = path.read_bytes()
    at = min(int(len(raw) * place), len(raw) - 1)
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    return raw


def aside(wh: Warehouse) -> list[Path]:
    folder = wh.home / "damaged"
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def gather(wh: Warehouse) -> FeatureSet:
    return build(wh, FeatureRequest(wh.dataset(POLICY.name), HASHES, ["tokens", "level"], None))


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


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no commit be read whole before a query, as those with arrays are not."""
    monkeypatch.setattr("warehouse.rows.damage._SMALL_FILE", 0)
    monkeypatch.setattr("warehouse.rows.damage._SMALL_ROW", 0)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("where", ["arrays", "end"])
def test_a_damaged_array_is_not_gathered(wh: Warehouse, calm: Warehouse, where: str) -> None:
    victim = commits(wh, "tokens")[0]
    ids = set(pq.read_table(victim)["clip_id"].to_pylist())
    group = pq.read_metadata(victim).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    [arrays] = [column for column in columns if column.path_in_schema == "tokens"]
    inside = arrays.data_page_offset + arrays.total_compressed_size - 9
    flip(victim, inside / victim.stat().st_size if where == "arrays" else 1.0)
    mine, right = gather(wh), gather(calm)
    lost = ids & set(wh.dataset(POLICY.name).clip_ids())
    assert lost
    assert set(right.read()["clip_id"]) - set(mine.read()["clip_id"]) == lost
    assert len(aside(wh)) == 1
    run_all(wh, stages())
    assert facts_of(wh) == facts_of(calm)


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


def test_a_version_that_went_bad_is_written_anew_and_stops_nobody(
    wh: Warehouse, calm: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    first = wh.dataset(POLICY.name)
    other = select(wh, HASHES, replace(POLICY, version=9), POLICY.name)
    assert other.number == 2
    members = first.path / "members.parquet"
    for place in (0.05, 0.1, 0.2, 0.3):
        original = flip(members, place)
        with pytest.raises(FoleyError, match=r"members\.parquet are damaged"):
            first.members()
        members.write_bytes(original)
    flip(members, 0.3)
    wh.publish()
    assert query(wh.home, "from datasets").num_rows == 0, "both versions have that file"
    assert first.version in caplog.text
    assert select(wh, HASHES, replace(POLICY, version=10), POLICY.name).number == 3
    wh.publish()
    for policy, version in ((POLICY, first), (replace(POLICY, version=9), other)):
        assert select(wh, HASHES, policy, POLICY.name).version == version.version
    right = calm.dataset(POLICY.name).members(kept=None)
    assert wh.dataset(first.version).members(kept=None).equals(right)
    assert len(aside(wh)) >= 1
    wh.publish()
    counts = "select version, count(*) as n from dataset_members group by version order by version"
    assert [row["n"] for row in query(wh.home, counts).to_pylist()] == [30, 30, 30]
    kept = "select clip_id from dataset_members where version = ? and kept order by clip_id"
    shown = query(wh.home, kept, [first.version])["clip_id"].to_pylist()
    assert shown == wh.dataset(first.version).clip_ids()


def test_a_shard_that_went_bad_is_not_shared(wh: Warehouse, calm: Warehouse) -> None:
    first = gather(wh)
    right = first.read()
    dataset = select(wh, HASHES, replace(POLICY, version=9), POLICY.name)
    flip(first.path / "00000.parquet", 1.0)
    other = build(wh, FeatureRequest(dataset, HASHES, ["tokens", "level"], None))
    assert other.path != first.path
    assert sorted(other.read()["level"]) == sorted(right["level"])
    with pytest.raises(FoleyError, match="damaged"):
        FeatureSet.open(first.path)
    dataset = wh.dataset(first.meta["dataset"])
    again = build(wh, FeatureRequest(dataset, HASHES, ["tokens", "level"], None))
    assert again.path == first.path
    assert again.read()["level"].tolist() == right["level"].tolist()


@pytest.mark.parametrize("column", ["tokens", "level"])
def test_a_bit_that_flips_in_a_shard_is_seen_when_it_is_read_and_the_shard_written_anew(
    wh: Warehouse, calm: Warehouse, column: str
) -> None:
    gather(wh)
    dataset = select(wh, HASHES, replace(POLICY, version=9), POLICY.name)
    request = FeatureRequest(dataset, HASHES, ["tokens", "level"], None)
    build(wh, request)  # links the same shard
    shard = next(gather(wh).path.glob("*.parquet"))
    names = pq.read_schema(shard).names
    chunk = pq.read_metadata(shard).row_group(0).column(names.index(column))
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    end = begin + chunk.total_compressed_size
    flip(shard, (end - 3) / shard.stat().st_size)
    features = gather(wh)
    with pytest.raises(FoleyError, match=r"feature shard .* is damaged"):
        features.read()
    assert len(aside(wh)) == 2 * len(["shard", "note"]), "of both sets that held the shard"
    right = gather(calm).read()
    for again in (gather(wh), build(wh, request)):
        assert sorted(again.read()["level"]) == sorted(right["level"])
    for name, values in gather(wh).read().items():
        assert np.array_equal(values, right[name])


def test_an_error_of_the_disk_that_passes_harms_no_shard(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = gather(wh)
    right = features.read()["tokens"]
    read, left = os.preadv, [1]

    def once_wrong(handle: int, buffers: list[memoryview], start: int) -> int:
        size = read(handle, buffers, start)
        if left.pop() if left else 0:
            buffers[0][0] ^= 1
        return size

    monkeypatch.setattr(os, "preadv", once_wrong)
    assert np.array_equal(features.read()["tokens"], right)
    assert not left
    assert aside(wh) == []


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
