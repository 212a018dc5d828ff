"""Feature sets of several shards and row groups: every clip once, with its own values."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from tests.warehouse.shards import CLIPS, PASSED, assert_own_values, build_with, level_of, request
from tests.warehouse.toys import length, make_files, run_all, stages, tokens
from warehouse import FeatureSet, FoleyError, Warehouse, verify
from warehouse.datasets import epoch, feature_build, feature_reader
from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_build import build
from warehouse.rows.read import Selection, rows


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("shards")
    warehouse = Warehouse(folder / "home")
    warehouse.ingest(make_files(folder / "media", CLIPS))
    pipeline = stages()
    for stage in pipeline:
        stage.batch_size = 70
    run_all(warehouse, pipeline)
    ids = fingerprints(pipeline)
    select(warehouse, {"text": ids["text"]}, Policy("all", 1, ()))
    return warehouse


@pytest.fixture(scope="module")
def sharded(wh: Warehouse) -> FeatureSet:
    """Shards of 64 clips in row groups of 16, of which two files are open at a time."""
    return build_with(wh, {"_GROUP": 16, "_WINDOW": 32, "_SHARD_BYTES": 64 * 72})


def test_the_shards_hold_every_clip_once_with_its_own_values(sharded: FeatureSet) -> None:
    assert [(shard["file"], shard["rows"]) for shard in sharded.meta["shards"]] == [
        ("00000.parquet", 64), ("00001.parquet", 64), ("00002.parquet", 64), ("00003.parquet", 18),
    ]  # fmt: skip
    assert sorted(sharded.clip_ids()) == PASSED
    assert (sharded.meta["clips"], sharded.meta["missing"]) == (len(PASSED), CLIPS - len(PASSED))
    everything = sharded.read()
    assert everything["clip_id"].tolist() == sharded.clip_ids()
    assert_own_values(everything)
    for shard in sharded.meta["shards"]:
        file = pq.ParquetFile(sharded.path / shard["file"])
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert groups == [16] * (shard["rows"] // 16) + [2] * (shard["rows"] % 16 == 2)
        assert os.stat(sharded.path / shard["file"]).st_size == shard["bytes"]


def test_shards_change_neither_id_nor_order_nor_values(
    wh: Warehouse, sharded: FeatureSet, tmp_path: Path
) -> None:
    again = Warehouse(shutil.copytree(wh.home, tmp_path / "home"))
    shutil.rmtree(again.home / "features")
    whole = build_with(again, {"_GROUP": 16, "_WINDOW": 32})
    assert (whole.id, len(whole.meta["shards"])) == (sharded.id, 1)
    ours, theirs = sharded.read(), whole.read()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50])
def test_an_epoch_gives_every_clip_once_across_shards(
    sharded: FeatureSet, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "_WINDOW", 40)
    batches = list(sharded.batches(Epoch(batch_size, drop_last=False)))
    for batch in batches:
        assert_own_values(batch)
    assert sorted(clip for batch in batches for clip in batch["clip_id"]) == PASSED
    sizes = [len(batch["clip_id"]) for batch in batches]
    assert max(sizes) == batch_size
    full = [batch["clip_id"].tolist() for batch in sharded.batches(Epoch(batch_size))]
    clips = [clip for batch in full for clip in batch]
    assert len(clips) == len(set(clips)) == len(PASSED) // batch_size * batch_size
    for start in (1, 3):
        resumed = sharded.batches(Epoch(batch_size), start)
        assert [batch["clip_id"].tolist() for batch in resumed] == full[start:]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("by", [None, "n_tokens"])
def test_ranks_share_an_epoch(sharded: FeatureSet, world: int, by: str | None) -> None:
    """Together they take the batches that one takes, in turn."""
    this = Epoch(4, seed=3, number=2, by=by)
    alone = [batch["clip_id"].tolist() for batch in sharded.batches(this)]
    shares = [list(sharded.batches(this, rank, world)) for rank in range(world)]
    for rank, share in enumerate(shares):
        assert [batch["clip_id"].tolist() for batch in share] == alone[rank::world]
        for batch in share:
            assert_own_values(batch)


def test_clips_are_mixed_over_shards_and_within_windows(sharded: FeatureSet) -> None:
    shard_of = {
        clip: number
        for number, shard in enumerate(sharded.meta["shards"])
        for clip in pq.read_table(sharded.path / shard["file"])["clip_id"].to_pylist()
    }
    first = next(sharded.batches(Epoch(32)))["clip_id"].tolist()
    assert len({shard_of[clip] for clip in first}) > 2
    stored = sharded.clip_ids()
    places = [stored.index(clip) for clip in first]
    assert places != sorted(places)
    assert sum(b == a + 1 for a, b in pairwise(places)) < 4


def test_what_is_read_is_in_the_order_asked_for(sharded: FeatureSet) -> None:
    asked = [*sharded.clip_ids()[::-17], sharded.clip_ids()[3]]
    got = sharded.read(asked)
    assert got["clip_id"].tolist() == asked
    assert_own_values(got)
    few = sharded.read(asked, ["n_tokens"])
    assert set(few) == {"clip_id", "n_tokens"}
    assert few["n_tokens"].tolist() == got["n_tokens"].tolist()
    with pytest.raises(FoleyError, match=r"hold no clip absent, absent2$"):
        sharded.read([asked[0], "absent", "absent2"])


def test_no_file_stays_open(sharded: FeatureSet) -> None:
    def held() -> set[str]:
        files = set()
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # another thread's, closed meanwhile
                files.add(fd + os.readlink(f"/proc/self/fd/{fd}"))
        return {file for file in files if str(sharded.path) in file}

    before = held()  # of readers that tests before left to the collector
    batches = sharded.batches(Epoch(16))
    next(batches)
    assert 1 <= len(held() - before) <= 2
    assert isinstance(batches, Generator)
    batches.close()
    sharded.read()
    assert held() <= before


def test_many_readers_of_many_shards_open_no_more_files_than_one(
    wh: Warehouse, tmp_path: Path
) -> None:
    """As the micro-batches of a step do: 8 readers of 7 shards each, and room for 30 open files."""
    again = Warehouse(shutil.copytree(wh.home, tmp_path / "home"))
    shutil.rmtree(again.home / "features", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_GROUP", "_WINDOW"):
            patch.setattr(feature_build, name, 4)
        patch.setattr(feature_build, "_SHARD_BYTES", 1)
        patch.setattr(feature_reader, "_OPEN_FILES", 16)
        features = build(again, request(again))
    assert len(features.meta["shards"]) == 53
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    room = [number for number in range(soft) if number not in taken][:30]
    resource.setrlimit(resource.RLIMIT_NOFILE, (room[-1], hard))
    try:
        readers = [features.batches(Epoch(2), rank, 8) for rank in range(8)]
        for batches in zip(*readers, strict=False):
            for batch in batches:
                assert_own_values(batch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_read_the_same_set_at_once(sharded: FeatureSet) -> None:
    """Of whose files two stay open, so that each reader takes away what another reads."""

    def share(rank: int) -> list[str]:
        batches = list(sharded.batches(Epoch(3, drop_last=False), rank, 4))
        for batch in batches:
            assert_own_values(batch)
        return [clip for batch in batches for clip in batch["clip_id"]]

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(share, range(4)))
    assert sorted(clip for share in shares for clip in share) == PASSED
    copy = pickle.loads(pickle.dumps(sharded))
    assert copy.read()["clip_id"].tolist() == sharded.clip_ids()


HARM: list[tuple[Callable[[Path], object], str]] = [
    (lambda shard: shard.unlink(), "00002.parquet is missing or damaged"),
    (lambda shard: os.truncate(shard, shard.stat().st_size - 1), "missing or damaged"),
]


@pytest.mark.parametrize(("harm", "what"), HARM)
def test_a_shard_that_is_not_as_it_was_written(
    sharded: FeatureSet, tmp_path: Path, harm: Callable[[Path], object], what: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sharded.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert FeatureSet.open(copy).clip_ids() == sharded.clip_ids()
    harm(copy / "00002.parquet")
    with pytest.raises(FoleyError, match=what):
        FeatureSet.open(copy)


def test_a_shard_of_another_layout_is_refused(sharded: FeatureSet, tmp_path: Path) -> None:
    """Compressed, or in pages: its values do not lie where the reader would look."""
    table = pq.read_table(sharded.path / "00000.parquet")
    layouts: list[dict[str, Any]] = [
        {"compression": "zstd"},
        {"compression": "none", "data_page_size": 64},
    ]
    for options in layouts:
        pq.write_table(table, tmp_path / "00000.parquet", use_dictionary=False, **options)
        size = (tmp_path / "00000.parquet").stat().st_size
        shards = [{"file": "00000.parquet", "rows": 64, "bytes": size}]
        (tmp_path / "_features.json").write_text(json.dumps({"id": "x", "shards": shards}))
        with pytest.raises(FoleyError, match="not laid out as this reader expects"):
            FeatureSet.open(tmp_path)


def test_a_flipped_bit_is_seen_by_the_deep_check(wh: Warehouse, sharded: FeatureSet) -> None:
    """In an array of a shard and of a commit, whose pages carry checksums."""
    (commit, *_) = wh.listing("tokens", fingerprints(stages())["tokens"]).good
    row = pq.read_table(commit.path)["tokens"][5].as_py()
    level = level_of(sharded.clip_ids()[64])
    victims = [(sharded.path / "00001.parquet", tokens(level).tobytes()), (commit.path, row)]
    assert verify(wh, deep=True) == []
    for path, part in victims:
        right = path.read_bytes()
        place = right.index(part) + len(part) // 2
        path.write_bytes(right[:place] + bytes([right[place] ^ 4]) + right[place + 1 :])
        try:
            assert verify(wh, deep=False) == []
            (problem,) = verify(wh, deep=True)
            assert problem.path == path
        finally:
            path.write_bytes(right)


def test_rows_come_with_the_columns_and_clips_asked_for(wh: Warehouse) -> None:
    ids = fingerprints(stages())
    some = ["clip0299", "clip0001", "clip0150", "clip0007"]
    got = rows(wh, "tokens", ids["tokens"], Selection(columns=["n_tokens"], clip_ids=some))
    assert got.column_names == ["clip_id", "n_tokens"]
    assert got["clip_id"].to_pylist() == ["clip0001", "clip0150"]
    assert got["n_tokens"].to_pylist() == [length(1), length(0)]
    every = rows(wh, "facts", ids["facts"], Selection(status=None, clip_ids=some))
    assert every["status"].to_pylist() == ["passed", "failed", "passed", "rejected"]
    assert every.column_names == [
        "clip_id", "status", "reason", "error", "message", "attempt", "level", "together",
    ]  # fmt: skip
    arrays = rows(wh, "tokens", ids["tokens"])
    assert arrays["clip_id"].to_pylist() == PASSED
    for clip, raw in zip(PASSED, arrays["tokens"].to_pylist(), strict=True):
        assert raw == tokens(level_of(clip)).tobytes()
    assert rows(wh, "facts", ids["facts"], Selection(clip_ids=[])).num_rows == 0
    with pytest.raises(FoleyError, match="has no column nothing"):
        rows(wh, "facts", ids["facts"], Selection(columns=["nothing"]))


def test_the_file_says_what_it_holds(sharded: FeatureSet) -> None:
    schema = pq.read_schema(sharded.path / "00003.parquet")
    names = ["clip_id", "n_tokens", "prompt", "_key", "_size_tokens", "_crc_tokens"]
    names += ["tokens"]  # arrays at the end
    assert schema.names == names
    assert schema.field("tokens").type == pa.binary(2 * 3 * 3 * 4)
    assert not schema.field("tokens").nullable
    metadata = schema.field("tokens").metadata
    assert (metadata[b"shape"], metadata[b"free"]) == (b"[3, 3, 4]", b"0")
    assert json.loads(schema.metadata[b"foley"])["id"] == sharded.id
