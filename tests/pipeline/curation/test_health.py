"""What is told when clips stop coming, are kept otherwise, or fail; each against its limit."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.health import Limits, check_health
from pipeline.curation.policy import Policy, select
from pipeline.curation.registry import register, registered, remove, scan_source
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import Facts, make_files, run_all
from warehouse import FoleyError, Warehouse

CLIPS = 20


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    """Twenty clips of which Facts fails some, in two versions; sources that are well and not."""
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", CLIPS))
    run_all(warehouse, [Facts()])
    for number, below in enumerate((1000, 10), 1):
        gates = (Gate("quiet", (Condition("level", below=below),)),)
        select(warehouse, fingerprints([Facts()]), Policy("p", number, gates), "own")
    for name in ("gone", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.mp4").write_text(name)
        scan_source(warehouse, register(warehouse, tmp_path / name))
    (tmp_path / "empty").mkdir()
    register(warehouse, tmp_path / "empty")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(FoleyError):
        scan_source(warehouse, registered(warehouse, ["gone"])[0])
    return warehouse


def wrong(wh: Warehouse, limits: Limits, days_on: float = 0) -> set[tuple[str, str]]:
    now = datetime.now(UTC) + timedelta(days=days_on)
    return {(c.what, c.subject) for c in check_health(wh, limits, now) if not c.ok}


def test_what_is_not_well_is_found(wh: Warehouse, tmp_path: Path) -> None:
    versions = wh.datasets()
    then, now = (dataset.counts["kept"] / CLIPS for dataset in versions)
    failed = wh.rows("facts", fingerprints([Facts()])["facts"], "failed").num_rows
    assert then > now > 0 < failed
    always = {("scan", "gone"), ("freshness", "empty")}
    assert wrong(wh, Limits(days=2, moved=1, failed=1), 1.9) == always
    old = {("freshness", name) for name in ("gone", "new")}
    assert wrong(wh, Limits(days=2, moved=1, failed=1), 2.1) == always | old
    assert wrong(wh, Limits(days=None, moved=1, failed=1), 99) == {("scan", "gone")}
    drift = {("drift", versions[1].version)}
    assert wrong(wh, Limits(None, then - now + 0.01, 1)) == {("scan", "gone")}
    assert wrong(wh, Limits(None, then - now - 0.01, 1)) == {("scan", "gone")} | drift
    failures = {("failures", "facts")}
    assert wrong(wh, Limits(None, 1, failed / CLIPS - 0.01)) == {("scan", "gone")} | failures
    assert wrong(wh, Limits(None, 1, failed / CLIPS)) == {("scan", "gone")}
    (tmp_path / "new/one.mp4").rename(tmp_path / "new/two.mp4")
    scan_source(wh, registered(wh, ["new"])[0])
    wrong_too = {("scan", "gone")} | failures
    assert wrong(wh, Limits(None, 1, 0)) == wrong_too | {("failures", "clips")}
    remove(wh, "new")
    assert wrong(wh, Limits(None, 1, 0)) == wrong_too


def test_each_says_what_it_found(wh: Warehouse) -> None:
    now = datetime.now(UTC) + timedelta(days=3)
    messages = " ".join(check.message for check in check_health(wh, Limits(), now))
    assert "source gone: " in messages
    assert "no such folder" in messages
    assert "source new gave nothing new for 3.0 days" in messages
    assert "source empty gave no clip yet" in messages
    assert "of 20 clips failed facts" in messages
