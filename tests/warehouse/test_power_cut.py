"""What was said to be done is there after a power cut: every file and every name was flushed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.power import Disk, disk_of
from tests.warehouse.toys import POLICY, facts_of, make_files, run_all, stages
from warehouse import Warehouse, compact, query, verify
from warehouse.datasets.feature_build import FeatureRequest, build

COLUMNS = ["tokens", "n_tokens", "prompt"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, Disk]:
    """A warehouse with clips, facts, a dataset, features, records and a catalog, and its disk."""
    folder = tmp_path_factory.mktemp("made")
    home = folder / "place" / "home"
    home.parent.mkdir()
    with disk_of(home.parent) as disk:
        warehouse = Warehouse(home)
        warehouse.ingest(make_files(folder / "media", 40))
        run_all(warehouse, stages())
        ids = fingerprints(stages())
        dataset = select(warehouse, {name: ids[name] for name in ("facts", "text")}, POLICY)
        build(warehouse, FeatureRequest(dataset, ids, COLUMNS, split=None))
        warehouse.write_record("runs", "run-1", {"flow": "curate", "state": "completed"})
        warehouse.publish()
    return warehouse, disk


def after_cut(disk: Disk, tmp_path: Path) -> Warehouse:
    return Warehouse(disk.restore(tmp_path / "after") / "home")


def test_rows_datasets_features_and_records_are_all_there(
    made: tuple[Warehouse, Disk], tmp_path: Path
) -> None:
    before, disk = made
    after = after_cut(disk, tmp_path)
    assert verify(after, deep=True) == []
    assert facts_of(after) == facts_of(before)
    assert [d.version for d in after.datasets()] == [d.version for d in before.datasets()]
    version = before.datasets()[0].version
    assert after.dataset(version).clip_ids() == before.dataset(version).clip_ids()
    (features,) = [path.name for path in (before.home / "features").iterdir()]
    ours, theirs = after.features(features), before.features(features)
    assert ours.clip_ids() == theirs.clip_ids()
    assert (
        ours.read(ours.clip_ids(), ["tokens"])["tokens"]
        == theirs.read(ours.clip_ids(), ["tokens"])["tokens"]
    ).all()
    assert after.records("runs") == before.records("runs")
    run_all(after, stages())  # nothing is left to do
    assert facts_of(after) == facts_of(before)


def test_the_published_catalog_opens(made: tuple[Warehouse, Disk], tmp_path: Path) -> None:
    before, disk = made
    after = after_cut(disk, tmp_path)
    sql = "select stage, passed, rejected, failed from funnel order by position"
    assert query(after.home, sql).to_pylist() == query(before.home, sql).to_pylist()


def test_a_compaction_removes_nothing_before_its_own_is_safe(
    made: tuple[Warehouse, Disk], tmp_path: Path
) -> None:
    """The cut comes at every flush of a compaction in turn."""
    warehouse, _ = made
    wanted = facts_of(warehouse)
    with disk_of(warehouse.home.parent) as disk:
        cuts: list[Path] = []
        flushed = disk.flushed

        def flush_and_cut(descriptor: int) -> None:
            flushed(descriptor)
            cuts.append(disk.restore(tmp_path / f"cut{len(cuts)}"))

        disk.flushed = flush_and_cut
        assert compact(warehouse)
    assert len(cuts) >= 4
    for cut in cuts:
        assert facts_of(Warehouse(cut / "home")) == wanted
