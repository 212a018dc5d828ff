"""A new version shares the shards of older feature sets, and only new rows are copied."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import length, make_files, run_all, stages, tokens
from warehouse import FeatureSet, Warehouse, query
from warehouse.datasets import feature_build
from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_build import FeatureRequest, build

COLUMNS = ["tokens", "n_tokens", "prompt"]
CLIPS = 200
REPLACED = 4  # a clip whose file changes before the last version


def work(wh: Warehouse) -> None:
    """All stages, in few batches: what matters here are the shards."""
    pipeline = stages()
    for stage in pipeline:
        stage.batch_size = 40
    run_all(wh, pipeline)


def built(wh: Warehouse, numbers: Sequence[int], split: str | None = None) -> FeatureSet:
    """The features of a version with these clips, in shards of 16 rows and groups of 4."""
    prints = fingerprints(stages())
    ids = [f"clip{number:04d}" for number in numbers]
    policy = Policy("some", 1, (), val=0.3)
    dataset = select(wh, {"facts": prints["facts"]}, policy, clip_ids=ids)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_GROUP": 4, "_WINDOW": 8, "_SHARD_BYTES": 16 * 72}.items():
            patch.setattr(feature_build, name, value)
        return build(wh, FeatureRequest(dataset, prints, COLUMNS, split, seed=1))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, list[FeatureSet]]:
    """Sets of four versions: of short clips, of more, with a replaced file, of a few of them."""
    folder = tmp_path_factory.mktemp("grown")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", CLIPS))
    work(wh)
    short = [i for i in range(CLIPS) if length(i % 50) < 3]
    sets = [built(wh, short[:60]), built(wh, range(150))]
    (folder / "media" / f"{REPLACED:04d}.bin").write_bytes(b"another" + bytes([6]))
    wh.ingest(wh.clips(["path", "source", "source_video", "prompt", "url"]))
    work(wh)
    return wh, [*sets, built(wh, range(3, CLIPS)), built(wh, range(3, 90))]


def inodes(features: FeatureSet) -> set[int]:
    return {(features.path / s["file"]).stat().st_ino for s in features.meta["shards"]}


def level_of(clip: str, version: int) -> float:
    number = int(clip.removeprefix("clip"))
    return 6.0 if number == REPLACED and version > 1 else float(number % 50)


def test_every_version_has_its_clips_with_their_values(
    grown: tuple[Warehouse, list[FeatureSet]],
) -> None:
    for version, features in enumerate(grown[1]):
        ids: list[str] = []
        for batch in features.batches(Epoch(7, drop_last=False)):
            for clip, array, count in zip(
                batch["clip_id"], batch["tokens"], batch["n_tokens"], strict=True
            ):
                assert count == length(level_of(clip, version))
                assert np.array_equal(array[:count], tokens(level_of(clip, version)))
                assert not array[count:].any()
                ids.append(clip)
        assert sorted(ids) == sorted(features.clip_ids())
        assert len(ids) == len(set(ids)) == features.meta["clips"]
    assert [features.columns["tokens"].shape[0] for features in grown[1]] == [2, 3, 3, 3]


def test_only_new_rows_are_written(grown: tuple[Warehouse, list[FeatureSet]]) -> None:
    _, sets = grown
    written = [0, 0, 0, 0]
    seen: set[int] = set()
    for version, features in enumerate(sets):
        for shard in features.meta["shards"]:
            if (features.path / shard["file"]).stat().st_ino not in seen:
                written[version] += shard["rows"]
        seen |= inodes(features)
    ids = [set(features.clip_ids()) for features in sets]
    new = [len(ids[0]), len(ids[1] - ids[0]), len(ids[2] - ids[1]) + 1, 0]
    # A shard that is less than half full may be written anew with the rows that are new.
    assert all(n <= w <= n + 8 for n, w in zip(new, written, strict=True)), (new, written)
    assert written[3] == 0


def test_order_and_values_are_those_of_a_set_that_was_written_at_once(
    grown: tuple[Warehouse, list[FeatureSet]], tmp_path: Path
) -> None:
    wh, sets = grown
    other = Warehouse(shutil.copytree(wh.home, tmp_path / "home"))
    shutil.rmtree(other.home / "features")
    alone = built(other, range(3, CLIPS))
    assert alone.id == sets[2].id
    assert not any("linked" in shard for shard in alone.meta["shards"])
    for epoch in (Epoch(5, seed=2), Epoch(4, number=1, by="n_tokens")):
        for ours, theirs in zip(sets[2].batches(epoch), alone.batches(epoch), strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert sets[2].clip_ids() == alone.clip_ids()


def test_sql_and_arrow_see_the_rows_of_the_set_alone(
    grown: tuple[Warehouse, list[FeatureSet]],
) -> None:
    wh, sets = grown
    wh.publish()
    few = sets[3]
    assert any("used" in shard for shard in few.meta["shards"])
    rows = query(wh.home, "select clip_id, tokens, n_tokens from arrays", features=few.id)
    assert sorted(rows["clip_id"].to_pylist()) == sorted(few.clip_ids())
    for row in rows.to_pylist():
        expected = np.zeros((3, 3, 4))
        own = tokens(level_of(row["clip_id"], 3))
        expected[: len(own)] = own
        assert np.array_equal(row["tokens"], expected)
    with duckdb.connect() as con:
        con.register("arrow", few.arrow)
        found = con.execute("select clip_id, n_tokens from arrow order by clip_id").fetchall()
    assert found == [(c, length(level_of(c, 3))) for c in sorted(few.clip_ids())]


def test_a_set_outlives_those_it_shares_shards_with(
    grown: tuple[Warehouse, list[FeatureSet]], tmp_path: Path
) -> None:
    wh, sets = grown
    other = Warehouse(shutil.copytree(wh.home, tmp_path / "home"))
    for features in sets[:2]:
        shutil.rmtree(other.home / "features" / features.id)
    left = other.features(sets[2].id).read()
    assert all(np.array_equal(left[name], values) for name, values in sets[2].read().items())


def test_splits_share_what_moves_between_them(grown: tuple[Warehouse, list[FeatureSet]]) -> None:
    wh, sets = grown
    known = set().union(*map(inodes, sets))
    for split in ("train", "val"):
        assert inodes(built(wh, range(3, CLIPS), split)) <= known


def test_where_a_file_cannot_have_two_names_it_is_copied(
    grown: tuple[Warehouse, list[FeatureSet]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wh, sets = grown
    other = Warehouse(shutil.copytree(wh.home, tmp_path / "home"))
    shutil.rmtree(other.home / "features" / sets[3].id)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    monkeypatch.setattr(os, "link", refuse)
    again = built(other, range(3, 90))
    assert again.id == sets[3].id
    assert all((again.path / s["file"]).stat().st_nlink == 1 for s in again.meta["shards"])
    assert np.array_equal(again.read()["tokens"], sets[3].read()["tokens"])
