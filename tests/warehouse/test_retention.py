"""Retention: versions that nothing refers to go with their features, and nothing else does."""

from __future__ import annotations

from pathlib import Path

from tests.warehouse.test_shared_shards import built
from tests.warehouse.toys import make_files, run_all, stages
from warehouse import Warehouse, gc, verify
from warehouse.files import file_lock
from warehouse.runs import run_lock


def test_retention_keeps_what_is_referred_to(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 40))
    run_all(wh, stages())
    sets = [built(wh, range(count)) for count in (10, 15, 20, 25, 30, 35)]
    versions = [str(features.meta["dataset"]) for features in sets]
    wh.write_record("checkpoints", "bridge", {"dataset": versions[1], "features": sets[1].id})
    wh.write_record("evaluations", "score", {"dataset": versions[2]})
    assert built(wh, range(10)).id == sets[0].id  # selected last
    values = [features.read()["tokens"] for features in sets]

    wh.write_record("runs", "train-1", {"flow": "train", "state": "running"})
    with file_lock(wh.lock_path(run_lock("train-1"))):
        assert gc(wh, dry_run=False, keep=1) == []
    assert gc(wh, dry_run=False) == []

    listed = {item.path for item in gc(wh, keep=1)}
    assert {item.path for item in gc(wh, dry_run=False, keep=1)} == listed
    assert listed == {
        wh.home / kind / name
        for gone in (3, 4)
        for kind, name in (("datasets", versions[gone]), ("features", sets[gone].id))
    }
    assert not any(path.exists() for path in listed)
    for stays in (0, 1, 2, 5):
        assert wh.dataset(versions[stays]).counts["kept"] > 0
        assert (wh.features(sets[stays].id).read()["tokens"] == values[stays]).all()
    assert verify(wh, deep=True) == []
    assert built(wh, range(25)).meta["dataset"] != versions[3]  # numbers are not given twice
