"""Retention: versions that nothing refers to go with their features, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from tests.warehouse.test_shared_shards import built
from tests.warehouse.toys import make_files, run_all, stages
from warehouse import Warehouse, gc, verify
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.files import file_lock
from warehouse.runs import run_lock


def test_retention_keeps_what_is_referred_to(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 40))
    run_all(wh, stages())
    sets = [built(wh, range(count)) for count in (10, 15, 20, 25, 30, 35)]
    versions = [str(features.meta["dataset"]) for features in sets]
    wh.write_record("checkpoints", "bridge", {"dataset": versions[1], "features": sets[1].id})
    wh.write_record("checkpoints", "another", {"features": sets[4].id})
    wh.write_record("evaluations", "score", {"dataset": versions[2]})
    assert built(wh, range(10)).id == sets[0].id  # selected last
    values = [features.read()["tokens"] for features in sets]

    wh.write_record("runs", "train-1", {"flow": "train", "state": "running"})
    with file_lock(wh.lock_path(run_lock("train-1"))):
        assert gc(wh, dry_run=False, keep=1) == []
    assert gc(wh, dry_run=False) == []
    note = wh.dataset(versions[0]).path / "dataset.json"
    whole = note.read_bytes()
    note.write_text("{")  # it may name what another is the newest of
    assert gc(wh, dry_run=False, keep=1) == []
    note.write_bytes(whole)

    listed = {item.path for item in gc(wh, keep=1)}
    assert {item.path for item in gc(wh, dry_run=False, keep=1)} == listed
    assert listed == {
        wh.home / kind / name
        for kind, name in (
            ("datasets", versions[3]),
            ("features", sets[3].id),
            ("datasets", versions[4]),
        )
    }
    assert not any(path.exists() for path in listed)
    for stays in (0, 1, 2, 4, 5):
        assert stays == 4 or wh.dataset(versions[stays]).counts["kept"] > 0
        assert (wh.features(sets[stays].id).read()["tokens"] == values[stays]).all()
    assert verify(wh, deep=True) == []
    assert built(wh, range(25)).meta["dataset"] != versions[3]  # numbers are not given twice


def test_what_a_feature_set_was_made_of_stays_with_all_that_it_builds_on(tmp_path: Path) -> None:
    """Also where neither the dataset nor any stage's newest plan names it."""
    home, media = tmp_path / "home", make_files(tmp_path / "media", 12)
    prints, newer = fingerprints(stages()), fingerprints(stages(gain=2.0))

    def work() -> None:  # by homes that are gone at the end, with what they hold
        wh = Warehouse(home)
        wh.ingest(media)
        run_all(wh, stages())
        dataset = select(wh, {"text": prints["text"]}, Policy("some", 1, ()))
        build(wh, FeatureRequest(dataset, {"tokens": prints["tokens"]}, ["tokens"], None))
        run_all(wh, stages(gain=2.0))

    work()
    wh = Warehouse(home)
    folders = [wh.commits_folder(stage, prints[stage]) for stage in ("facts", "tokens", "text")]
    gc(wh, dry_run=False, unused=True)
    assert all(folder.is_dir() for folder in folders)
    shutil.rmtree(home / "features")
    old = [folder for folder in folders if newer[folder.parent.name] != folder.name]
    assert {item.path for item in gc(wh, unused=True)} == set(old)
    assert all(folder.is_dir() for folder in folders), "that was a dry run"
    gc(wh, dry_run=False, unused=True)
    assert [folder.is_dir() for folder in folders] == [False, False, True]
    assert wh.clips(["path"]).num_rows == 12


def test_a_note_that_cannot_be_read_keeps_all_commits(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 4))
    prints = fingerprints(stages())
    select(wh, {}, Policy("some", 1, ()))
    run_all(wh, stages())
    [note] = wh.home.glob("datasets/*/dataset.json")
    note.write_text("{")
    for file in wh.home.glob("commits/*/CURRENT"):
        file.unlink()
    assert gc(Warehouse(wh.home), unused=True) == []
    assert wh.commits_folder("facts", prints["facts"]).is_dir()
