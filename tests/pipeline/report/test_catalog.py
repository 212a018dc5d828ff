"""The page of a catalog says what is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.curation.policy import load_policy, select
from pipeline.procedural import BAD_KINDS, Corpus
from pipeline.report.catalog import catalog_page
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import fingerprints
from tests.pipeline.small import procedural_clips, work
from warehouse import FoleyError, Warehouse

GOOD = 5


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two versions of a dataset, clips that failed, a checkpoint and what was heard of it."""
    folder = tmp_path_factory.mktemp("shown")
    wh = Warehouse(folder / "home")
    fps = fingerprints([Probe()])
    for good in (GOOD - 2, GOOD):
        wh.ingest(procedural_clips(folder / "clips", Corpus(good, 3, 1.0)))
        work(wh, [Probe()], fps)
        select(wh, fps, load_policy("all"), "main")
    losses = [[step, 0.8 - step / 100] for step in range(1, 31)]
    bridge = {"id": "b0", "losses": losses, "validation": [[30, 0.4, 0.5, 0.6]], "steps": 30}
    wh.write_record("checkpoints", "b0", bridge)
    for system, figures in (
        ("foley-control", {"f1": {"value": 0.625, "clips": 9}}),
        ("silence", {"ms": 80}),
    ):
        heard = {"system": system, "checkpoint": "b0", "figures": figures}
        wh.write_record("evaluations", f"{system}-of-b0", heard)
    for name, ended in (("curate a: 3 new", {}), ("health", {"error": "1 of 9 clips failed"})):
        said = {
            "flow": name.split()[0],
            "flow_run": name,
            "state": "failed" if ended else "completed",
        }
        wh.write_record("runs", name.split()[0], said | ended | {"seconds": 1.25})
    said = ("what", "subject", "message", "ok")
    found = (("failures", "probe", "many failed", False), ("freshness", "a", "it is fresh", True))
    checks = [dict(zip(said, one, strict=True)) | {"value": 0.5, "most": 0.1} for one in found]
    wh.write_record("health", "now", {"checked_at": "2026-01-02T03:04:05+00:00", "checks": checks})
    wh.publish()
    return wh


def cells(page: str, section: str) -> list[list[str]]:
    """The rows of a section's first table, without marks."""
    table = re.search(rf'<section id="{section}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert table
    rows = re.findall(r"<tr>(.*?)</tr>", table[1], re.DOTALL)
    parts = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<.*?>", "", part).strip() for part in row] for row in parts]


def test_versions_failures_curves_and_figures_are_on_the_page(wh: Warehouse) -> None:
    versions = [dataset.version for dataset in sorted(wh.datasets(), key=lambda d: -d.number)]
    (wh.home / "reports").mkdir(exist_ok=True)
    (wh.home / "reports" / f"curation-{versions[0]}.html").touch()
    page = catalog_page(wh.home)
    newest, older = cells(page, "datasets")
    assert (newest[0], older[0]) == tuple(versions)
    assert page.count(f'href="/reports/curation-{versions[0]}.html"') == 1
    assert f"/reports/curation-{versions[1]}" not in page
    assert (newest[4], older[4]) == (str(GOOD + 1), str(GOOD - 1))  # silence decodes too
    assert (newest[-3], newest[-2]) == ("2", "0")  # added and removed since the version before
    failed = {row[1]: int(row[2]) for row in cells(page, "failures")}
    assert sum(failed.values()) <= len(BAD_KINDS)
    assert "MediaError" in failed
    assert cells(page, "checkpoints")[0][0] == "b0"
    assert page.count('class="curve') == 3
    heard = {row[0]: row[4:] for row in cells(page, "evaluations")}
    assert heard["foley-control"][0] == "0.625"
    assert heard["silence"][1] == "80"


def test_runs_have_their_names_and_errors_and_of_health_what_is_not_well_is_shown(
    wh: Warehouse,
) -> None:
    page = catalog_page(wh.home)
    ended = {row[0]: row[-1] for row in cells(page, "flows")}
    assert {*ended} == {"curate a: 3 new", "health"}
    assert ended["health"] == "1 of 9 clips failed"
    assert cells(page, "health") == [["failures", "probe", "many failed"]]
    assert "Of 2 checks at 2026-01-02 03:04 UTC 1 found" in page


def test_a_home_without_a_catalog_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(FoleyError, match="no catalog"):
        catalog_page(tmp_path)
