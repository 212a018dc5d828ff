"""The commands that keep a warehouse in order, on one whose stages have passed, rejected and failed clips."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.foley.commands import foley, one_line_error
from tests.warehouse.toys import POLICY, make_files, run_all, run_once, stages
from warehouse import Warehouse, query
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.datasets.versions import page_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 50))
    run_all(wh, stages())
    fps = fingerprints(stages())
    dataset = select(wh, {name: fps[name] for name in ("facts", "text")}, POLICY)
    build(wh, FeatureRequest(dataset, fps, ["tokens"], split=None))
    wh.publish()
    return wh.home


def said(*arguments: str | Path) -> str:
    done = foley(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_retry_releases_only_the_failures_that_are_named(home: Path) -> None:
    def quarantined() -> set[tuple[str, bool]]:
        rows = query(
            home, "select clip_id, quarantined from failures where stage = 'facts'"
        ).to_pylist()
        return {(row["clip_id"], row["quarantined"]) for row in rows}

    before = quarantined()
    assert before == {(f"clip{i:04d}", True) for i in range(50) if i % 10 in (7, 8)}
    assert said(
        "retry", "--stage", "facts", "--reason", "Broken: byte 7", "--home", home
    ).startswith("1 clips")
    assert quarantined() == before - {("clip0007", True)}
    run_once(Warehouse(home), stages()[:1])
    Warehouse(home).publish()
    assert quarantined() == before - {("clip0007", True)} | {("clip0007", False)}
    assert "gone" in one_line_error(foley("retry", "--stage", "gone", "--home", home))


def test_compact_leaves_fewer_files_and_the_same_answers(home: Path) -> None:
    sql = "select * exclude (file) from commits order by all"
    counts = "select stage, sum(clips) as clips, sum(passed) as passed from commits group by stage order by all"
    before, files = query(home, counts).to_pylist(), query(home, sql).num_rows
    assert "facts: " in said("compact", "--home", home)
    assert query(home, counts).to_pylist() == before
    assert len(list(home.glob("commits/*/*/*.parquet"))) < files
    assert said("compact", "--home", home).startswith("nothing to do")


def test_gc_lists_first_and_removes_only_what_is_asked(home: Path) -> None:
    left = home / "tmp" / "left-by-a-dead-run"
    left.write_bytes(b"x" * 10)
    kept = sorted(path for path in home.rglob("*.parquet"))
    assert left.name in said("gc", "--home", home)
    assert left.exists()
    said("gc", "--home", home, "--delete", "--unused")
    assert not left.exists()
    assert sorted(path for path in home.rglob("*.parquet")) == kept
    assert said("gc", "--home", home).startswith("0.0 MB in 0 places")


def test_gc_removes_pages_of_versions_that_are_gone_and_on_demand_of_older_ones(home: Path) -> None:
    wh = Warehouse(home)
    gone = wh.dataset(POLICY.name)
    fps = dict(gone.fingerprints)
    versions = [gone, *(select(wh, fps, replace(POLICY, version=v), POLICY.name) for v in (8, 9))]
    assert len({dataset.version for dataset in versions}) == 3
    pages = [page_of(home, dataset.version) for dataset in versions]
    mine = home / "reports" / "curation-mine.html"
    for page in (*pages, mine):
        page.write_text("page")
    shutil.rmtree(gone.path)
    said("gc", "--home", home, "--delete")
    assert [page.exists() for page in (*pages, mine)] == [False, True, True, True]
    said("gc", "--home", home, "--delete", "--unused")
    assert [page.exists() for page in (*pages, mine)] == [False, False, True, True]


def test_verify_names_what_is_damaged(home: Path) -> None:
    assert "every file" in said("verify", "--home", home)
    shard = next(home.glob("features/*/*.parquet"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 3] ^= 255
    shard.write_bytes(raw)
    done = foley("verify", "--home", home)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [str(shard)]


def test_lineage_of_a_clip_names_its_file_and_url(home: Path) -> None:
    [clip] = query(
        home, "select clip_id, url, sha256 from clips where clip_id = 'clip0001'"
    ).to_pylist()
    text = said("lineage", "clip0001", "--home", home)
    assert clip["url"] in text
    assert clip["sha256"][:16] in text
    assert "gone" in one_line_error(foley("lineage", "gone", "--home", home))


def test_commands_on_a_home_that_is_not_there_make_none(tmp_path: Path) -> None:
    for command in (["verify"], ["compact"], ["gc"], ["retry", "--stage", "facts"], ["status"]):
        assert "nothing" in one_line_error(foley(*command, "--home", tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    shutil.rmtree(tmp_path)
