"""A flipped byte in a dataset's version or in a feature shard is seen, and is written anew."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.curation.policy import select
from tests.warehouse.damage import HASHES, aside, commits, flip, gather
from tests.warehouse.toys import POLICY, facts_of, run_all, stages
from warehouse import FeatureSet, FoleyError, Warehouse, query
from warehouse.datasets.feature_build import FeatureRequest, build


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
