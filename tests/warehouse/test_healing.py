"""What went bad heals as often as it has to, and nothing wrong of the time between is kept."""

from __future__ import annotations

from pathlib import Path

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, Text, make_files, run_all, stages
from warehouse import Warehouse, compact, query, status
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.maintenance import Maintenance, maintain, repair
from warehouse.rows.damage import set_aside


class Newer(Text):
    version = 2


def finished(folder: Path) -> Warehouse:
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 7))
    run_all(wh, stages())
    return wh


def spoil(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + bytes([raw[40] ^ 4]) + raw[41:-1] + bytes([raw[-1] ^ 4]))


def test_the_funnel_of_a_version_that_healed_is_right(tmp_path: Path) -> None:
    wh = finished(tmp_path)
    dataset = select(wh, fingerprints(stages()), POLICY)
    spoil(dataset.path / "members.parquet")
    wh.publish()  # from nothing, without the version's members
    assert query(wh.home, "from datasets").num_rows == 0
    select(wh, fingerprints(stages()), POLICY)
    wh.publish()
    [step] = query(wh.home, "from funnel where stage = 'select'").to_pylist()
    assert (step["reached"], step["waiting"]) == (7, 0)


def test_versions_and_feature_sets_that_go_bad_again_are_written_again(tmp_path: Path) -> None:
    wh = finished(tmp_path)
    dataset = select(wh, fingerprints(stages()), POLICY)
    request = FeatureRequest(dataset, fingerprints(stages()), ["level"], None)
    ids, levels = dataset.clip_ids(), build(wh, request).read()["level"].tolist()
    for _ in range(2):
        spoil(dataset.path / "members.parquet")
        spoil(next((wh.home / "features").glob("*/*.parquet")))
        assert select(wh, fingerprints(stages()), POLICY).clip_ids() == ids
        assert build(wh, request).read()["level"].tolist() == levels
    aside = wh.home / "damaged"
    assert len([*aside.glob("datasets/*/*.parquet"), *aside.glob("features/*/*.parquet")]) == 4


def test_maintenance_leaves_alone_what_no_note_describes_any_more(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 28))
    run_all(wh, [Text()])
    old = wh.commits_folder("text", fingerprints([Text()])["text"])
    before = sorted(old.glob("*.parquet"))
    assert len(before) == 4
    run_all(wh, [Newer()])
    (old / "stage.json").write_text("{")
    assert [problem.path for problem in repair(wh)[0]] == [old / "stage.json"]
    assert maintain(wh, Maintenance(dry_run=True)).merged == []
    done = maintain(wh, Maintenance())
    assert {merged.stage for merged in done.merged} == {"text"}
    assert sorted(old.glob("*.parquet")) == before
    run_all(wh, [Text()])  # planned again, nothing to do
    assert [merged.files for merged in compact(wh)] == [len(before)]


def test_a_folder_set_aside_is_kept_beside_those_before_it(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    folder = wh.home / "features" / "ab"
    for content in ("first", "second", "third"):
        folder.mkdir()
        (folder / "00000.parquet").write_text(content)
        set_aside(wh, folder)
        assert not folder.exists()
    kept = (wh.home / "damaged" / "features").glob("ab*/*")
    assert sorted(path.read_text() for path in kept) == ["first", "second", "third"]


def test_disk_use_counts_takes_of_the_studio_and_what_went_bad(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    for name in ("studio/takes", "damaged/features", "sounds"):
        (wh.folder(name) / "a").write_bytes(b"12345")
    used = status(wh).disk_bytes
    assert {name: used[name] for name in ("studio", "damaged", "sounds", "commits")} == {
        "studio": 5,
        "damaged": 5,
        "sounds": 5,
        "commits": 0,
    }
