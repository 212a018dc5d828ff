"""The commands that keep a warehouse in order, on one with passed, rejected and failed clips."""

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
from warehouse.datasets.digest import digests
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.datasets.versions import page_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", 50))
    run_all(warehouse, stages())
    names = fingerprints(stages())
    dataset = select(warehouse, {stage: names[stage] for stage in ("facts", "text")}, POLICY)
    build(warehouse, FeatureRequest(dataset, names, ["tokens"], split=None))
    warehouse.publish()
    return warehouse.home


def printed(*arguments: str | Path) -> str:
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
    reason = ("--reason", "Broken: byte 7")
    assert "facts: 1 failed clips" in printed(
        "maintain", "--retry", "facts", *reason, "--home", home
    )
    assert quarantined() == before - {("clip0007", True)}
    run_once(Warehouse(home), stages()[:1])
    Warehouse(home).publish()
    assert quarantined() == before - {("clip0007", True)} | {("clip0007", False)}
    for options, word in (
        (("--retry", "gone"), "gone"),
        (reason, "retry"),
        (("--dry-run", "--delete"), "dry run"),
    ):
        assert word in one_line_error(foley("maintain", *options, "--home", home))


def test_merging_leaves_fewer_files_and_the_same_answers(home: Path) -> None:
    sql = "select * exclude (file) from commits order by all"
    counts = """
        select stage, sum(clips) as clips, sum(passed) as passed from commits
        group by stage order by all"""
    before, files = query(home, counts).to_pylist(), query(home, sql).num_rows
    paths = sorted(home.glob("commits/*/*/*.parquet"))
    assert "into one" not in printed("maintain", "--dry-run", "--home", home)
    assert sorted(home.glob("commits/*/*/*.parquet")) == paths
    assert "facts: " in printed("maintain", "--home", home)
    assert query(home, counts).to_pylist() == before
    assert len(list(home.glob("commits/*/*/*.parquet"))) < files
    assert "into one" not in printed("maintain", "--home", home)


def test_what_is_left_behind_is_listed_first_and_removed_when_asked(home: Path) -> None:
    left = home / "tmp" / "left-by-a-dead-run"
    left.write_bytes(b"x" * 10)
    assert left.name in printed("maintain", "--home", home)
    assert left.exists()
    files = sorted(home.rglob("*.parquet"))
    assert left.name in printed("maintain", "--home", home, "--delete", "--unused")
    assert not left.exists()
    assert sorted(home.rglob("*.parquet")) == files
    assert printed("maintain", "--home", home).startswith("clean")


def test_pages_of_versions_that_are_gone_are_removed_and_on_demand_of_older_ones(
    home: Path,
) -> None:
    warehouse = Warehouse(home)
    gone = warehouse.dataset(POLICY.name)
    policies = [replace(POLICY, version=number) for number in (8, 9)]
    newer = [select(warehouse, gone.fingerprints, policy, POLICY.name) for policy in policies]
    versions = [gone, *newer]
    assert len({dataset.version for dataset in versions}) == 3
    pages = [page_of(home, dataset.version) for dataset in versions]
    mine = home / "reports" / "curation-mine.html"
    for page in (*pages, mine):
        page.write_text("page")
    shutil.rmtree(gone.path)
    printed("maintain", "--home", home, "--delete")
    assert [page.exists() for page in (*pages, mine)] == [False, True, True, True]
    printed("maintain", "--home", home, "--delete", "--unused")
    assert [page.exists() for page in (*pages, mine)] == [False, False, True, True]


def test_damaged_files_are_named(home: Path) -> None:
    assert "every file" in printed("maintain", "--deep", "--home", home)
    shard = next(home.glob("features/*/*.parquet"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 3] ^= 255
    shard.write_bytes(raw)
    assert "every file" in printed("maintain", "--home", home)
    done = foley("maintain", "--deep", "--home", home)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["clean", str(shard)]
    done = foley("verify", "--home", home)
    assert done.returncode == 1
    assert str(shard) in done.stdout
    assert "set aside" in printed("verify", "--repair", "--home", home)
    first, *_, last = printed("verify", "--digest", "--home", home).splitlines()
    assert ("every file" in first, last.split()[0]) == (True, "all")
    assert last.split()[-1] == digests(Warehouse(home))[-1]["md5"]


def test_lineage_of_a_clip_names_its_file_and_url(home: Path) -> None:
    [clip] = query(
        home, "select clip_id, url, sha256 from clips where clip_id = 'clip0001'"
    ).to_pylist()
    text = printed("lineage", "clip0001", "--home", home)
    assert clip["url"] in text
    assert clip["sha256"][:16] in text
    assert "gone" in one_line_error(foley("lineage", "gone", "--home", home))


def test_commands_on_a_home_that_is_not_there_make_none(tmp_path: Path) -> None:
    for command in (["maintain"], ["maintain", "--retry", "facts"], ["status"]):
        assert "nothing" in one_line_error(foley(*command, "--home", tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    shutil.rmtree(tmp_path)
