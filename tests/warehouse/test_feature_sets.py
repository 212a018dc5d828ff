"""A feature set gives every clip once an epoch, in an order to repeat, resume and share out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints, plan, run_batch
from tests.warehouse.toys import SHAPE, length, make_files, run_all, stages, tokens
from warehouse import FeatureSet, FoleyError, Warehouse, compact, query
from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_build import FeatureRequest, build

COLUMNS = ["tokens", "n_tokens", "prompt"]
CLIPS = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, FeatureSet]:
    folder = tmp_path_factory.mktemp("features")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", CLIPS))
    pipeline = stages()
    for stage in pipeline:
        stage.batch_size = 100
    run_all(wh, pipeline)
    stage_hashes = fingerprints(pipeline)
    dataset = select(
        wh,
        {name: stage_hashes[name] for name in ("facts", "text")},
        Policy("all", 1, (Gate("level", (Condition("level", at_least=0),)),)),
    )
    return wh, build(wh, FeatureRequest(dataset, stage_hashes, COLUMNS, split=None))


def level_of(clip: str) -> float:
    return float(int(clip.removeprefix("clip")) % 50)


def order(features: FeatureSet, batch_size: int = 16, **options: Any) -> list[str]:
    batches = features.batches(Epoch(batch_size, **options))
    return [clip for batch in batches for clip in batch["clip_id"]]


def test_every_clip_comes_with_its_own_padded_arrays(made: tuple[Warehouse, FeatureSet]) -> None:
    _, features = made
    seen = 0
    for batch in features.batches(Epoch(16, drop_last=False)):
        for clip, array, count, prompt in zip(
            *(batch[c] for c in ("clip_id", *COLUMNS)), strict=True
        ):
            level = level_of(clip)
            assert count == length(level)
            assert len(prompt) == int(clip[4:]) % 7
            assert np.array_equal(array[:count], tokens(level))
            assert not array[count:].any()
            seen += 1
        assert batch["tokens"].dtype == np.float16
        assert batch["tokens"].shape[1:] == (3, *SHAPE)
    assert seen == len(features) == sum(i % 10 < 7 for i in range(CLIPS))


def test_reading_by_clip_gives_what_parquet_holds(made: tuple[Warehouse, FeatureSet]) -> None:
    _, features = made
    clips = sorted(features.clip_ids())[::7]
    got = features.read(clips, ["tokens"])
    assert got["clip_id"].tolist() == clips
    table = pq.read_table(features.path)
    raw = dict(zip(table["clip_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    column = features.columns["tokens"]
    assert all(
        np.array_equal(np.frombuffer(raw[c], column.dtype).reshape(column.shape), a)
        for c, a in zip(clips, got["tokens"], strict=True)
    )
    files = str(features.path / "*.parquet")
    assert duckdb.execute(
        f"select count(*), min(octet_length(tokens)) from '{files}'"
    ).fetchall() == [(len(features), column.nbytes)]


def test_the_order_follows_from_seed_and_epoch(made: tuple[Warehouse, FeatureSet]) -> None:
    _, features = made
    orders = [order(features, seed=s, number=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert order(features, seed=0, number=0) == orders[0]
    assert len({tuple(order) for order in orders}) == 3
    neighbours = np.abs(np.diff([int(clip[4:]) for clip in orders[0]]))
    assert np.median(neighbours) > 20, "neighbours in a batch should come from all over the set"


@settings(max_examples=25)
@given(
    batch_size=st.integers(1, 40),
    world=st.integers(1, 5),
    seed=st.integers(0, 99),
    start=st.integers(0, 30),
    last=st.booleans(),
)
def test_ranks_never_overlap_and_a_resumed_epoch_goes_on_exactly(
    made: tuple[Warehouse, FeatureSet],
    batch_size: int,
    world: int,
    seed: int,
    start: int,
    last: bool,
) -> None:
    _, features = made
    this = Epoch(batch_size, seed, drop_last=last)
    ranks = [
        [batch["clip_id"].tolist() for batch in features.batches(this, rank, world)]
        for rank in range(world)
    ]
    every = [clip for rank in ranks for batch in rank for clip in batch]
    assert len(every) == len(set(every))
    assert set(features.clip_ids()) >= set(every)
    assert len(every) >= len(features) - (batch_size - 1) * last
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    resumed = features.batches(this, start * world, world)
    assert [batch["clip_id"].tolist() for batch in resumed] == ranks[0][start:]


def test_building_again_opens_what_is_there_and_the_bytes_do_not_depend_on_batches_or_compaction(
    made: tuple[Warehouse, FeatureSet], tmp_path: Path
) -> None:
    wh, features = made
    dataset, stage_hashes = wh.dataset("all"), fingerprints(stages())
    assert build(wh, FeatureRequest(dataset, stage_hashes, COLUMNS, split=None)).id == features.id
    other = Warehouse(tmp_path / "home")
    other.ingest(wh.clips(["clip_id", "path", "source", "source_video", "prompt", "url"]))
    pipeline = stages()
    for stage in pipeline:
        stage.batch_size = 60
    run_all(other, pipeline)
    compact(other, at_least=2)
    again = select(
        other,
        {name: stage_hashes[name] for name in ("facts", "text")},
        Policy("all", 1, (Gate("level", (Condition("level", at_least=0),)),)),
    )
    built = build(other, FeatureRequest(again, stage_hashes, COLUMNS, split=None))
    assert built.id == features.id
    assert [p.read_bytes() for p in sorted(built.path.iterdir())] == [
        p.read_bytes() for p in sorted(features.path.iterdir())
    ]


def test_metadata_names_dataset_fingerprints_and_shapes(made: tuple[Warehouse, FeatureSet]) -> None:
    wh, features = made
    schema = pq.read_schema(features.path / "00000.parquet")
    assert schema.field("tokens").metadata[b"shape"] == b"[3, 3, 4]"
    assert features.meta["dataset"] == wh.dataset("all").version
    assert features.meta["fingerprints"] == {"tokens": fingerprints(stages())["tokens"]}


@pytest.mark.parametrize("columns", [["nothing"], ["tokens", "nothing"]])
def test_unknown_columns_are_a_clear_error(
    made: tuple[Warehouse, FeatureSet], columns: list[str]
) -> None:
    wh, features = made
    with pytest.raises(FoleyError, match="nothing"):
        build(wh, FeatureRequest(wh.dataset("all"), fingerprints(stages()), columns))
    with pytest.raises(FoleyError, match="nothing"):
        next(features.batches(Epoch(4), columns=columns))


def test_a_damaged_shard_is_a_clear_error(
    made: tuple[Warehouse, FeatureSet], tmp_path: Path
) -> None:
    _, features = made
    copy = shutil.copytree(features.path, tmp_path / "copy")
    shard = copy / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FoleyError, match=r"00000\.parquet"):
        FeatureSet.open(copy)


def test_sql_sees_the_arrays_beside_the_catalog(made: tuple[Warehouse, FeatureSet]) -> None:
    wh, features = made
    wh.publish()
    sql = """select a.clip_id, f.level, a.tokens[1][1][1] as first, a.tokens[a.n_tokens] as last
             from arrays a join facts f using (clip_id)"""
    rows = query(wh.home, sql, features=features.id).to_pylist()
    assert len(rows) == len(features)
    for row in rows:
        assert row["first"] == np.float16(level_of(row["clip_id"])) == row["level"]
        assert np.array_equal(row["last"], tokens(row["level"])[-1])


def test_sql_on_arrays_opens_no_other_file(
    made: tuple[Warehouse, FeatureSet], tmp_path: Path
) -> None:
    wh, features = made
    wh.publish()
    other = tmp_path / "secret.csv"
    other.write_text("a\n1\n")
    with pytest.raises(FoleyError, match="secret"):
        query(wh.home, f"select * from read_csv('{other}')", features=features.id)
    with pytest.raises(FoleyError, match="gone"):
        query(wh.home, "from arrays", features="gone")


def test_a_subset_that_is_empty_is_named(made: tuple[Warehouse, FeatureSet]) -> None:
    wh, _ = made
    request = FeatureRequest(wh.dataset("all"), fingerprints(stages()), COLUMNS, None, "sft")
    with pytest.raises(FoleyError, match=r"no clip of all-.* is in the subset 'sft'"):
        build(wh, request)


def test_features_that_come_later_make_another_set(tmp_path: Path) -> None:
    """Of one dataset version: what was joined while a stage was half done stays what it was."""
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 12))
    run_all(wh, stages()[:1])
    prints, tokens_of = fingerprints(stages()), stages()[1]
    dataset = select(wh, {"facts": prints["facts"]}, Policy("all", 1, ()))
    planned = plan(wh, tokens_of, prints)
    request = FeatureRequest(dataset, {"tokens": prints["tokens"]}, ["tokens"], split=None)
    sets: list[FeatureSet] = []
    for batch in planned.batches:
        run_batch(wh, tokens_of, planned, batch)
        sets.append(build(wh, request))
    clips = len(dataset.clip_ids())
    assert [len(features) for features in sets] == [4, 8, clips]
    assert [features.meta["missing"] for features in sets] == [clips - 4, clips - 8, 0]
