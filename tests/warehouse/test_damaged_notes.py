"""A note that cannot be made sense of stops nobody, heals with the next run, and loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, Text, facts_of, make_files, run_all, stages
from warehouse import Warehouse, gc, query, status, verify
from warehouse.datasets.feature_build import FeatureRequest, build

HASHES = fingerprints(stages())


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """12 clips, all stages done, a dataset with its features."""
    folder = tmp_path_factory.mktemp("calm")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 12))
    run_all(wh, stages())
    nightly(wh)
    return wh


def nightly(wh: Warehouse) -> None:
    """Work that is there already: run, select, gather, publish."""
    run_all(wh, stages())
    dataset = select(wh, HASHES, POLICY)
    build(wh, FeatureRequest(dataset, HASHES, ["tokens", "level"], None))
    wh.publish()


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "current, no text": ("commits/text/CURRENT", written(b"\x81\0\xff")),
    "current, empty": ("commits/text/CURRENT", written(b"")),
    "current, another": ("commits/text/CURRENT", written(b"0123456789abcdef")),
    "stage, half": ("commits/text/*/stage.json", written(b'{"stage": ')),
    "stage, other keys": ("commits/text/*/stage.json", written(b'{"stage": "text"}')),
    "stage, gone": ("commits/text/*/stage.json", Path.unlink),
    "newest, half": ("datasets/NEWEST.json", written(b'{"toys": ')),
    "version, half": ("datasets/*/dataset.json", written(b'{"name": ')),
    "version, other keys": ("datasets/*/dataset.json", written(b'{"nime": "toys"}')),
    "features, half": ("features/*/_features.json", written(b'{"shards": ')),
    "features, other keys": ("features/*/_features.json", written(b'{"shirds": []}')),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_next_run_writes_it_anew_and_nothing_that_it_named_is_lost(
    calm: Warehouse, tmp_path: Path, what: str
) -> None:
    shutil.copytree(calm.home, tmp_path / "home")
    pattern, damage = DAMAGE[what]
    [note] = (tmp_path / "home").glob(pattern)
    damage(note)
    wh = Warehouse(tmp_path / "home")
    assert bool(verify(wh)) == ("gone" not in what), "it is named"
    gc(wh, dry_run=False, unused=True, keep=1)
    kept = {path.relative_to(calm.home) for path in calm.home.glob("commits/*/*/*.parquet")}
    kept |= {path.relative_to(calm.home) for path in calm.home.glob("*/*/*.parquet")}
    assert [path for path in kept if not (wh.home / path).exists()] == []
    nightly(wh)
    assert verify(wh) == []
    assert facts_of(wh) == facts_of(calm)
    [version] = wh.datasets()
    assert version.version == calm.dataset("toys").version
    assert version.members(None).equals(calm.dataset("toys").members(None))
    assert query(wh.home, "from text").num_rows == 12
    assert {step.waiting for step in status(wh).stages} == {0}


def test_a_stage_that_is_never_planned_again_stops_no_other(
    calm: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wh = Warehouse(shutil.copytree(calm.home, tmp_path / "home"))
    (wh.home / "commits" / "text" / "CURRENT").write_bytes(b"")
    wh = Warehouse(wh.home)
    run_all(wh, [stage for stage in stages() if not isinstance(stage, Text)])
    assert "text/CURRENT is left out until it is written anew" in caplog.text
    assert caplog.text.count("left out") == 1


def test_a_source_of_a_few_words_is_none_that_was_removed(calm: Warehouse, tmp_path: Path) -> None:
    wh = Warehouse(shutil.copytree(calm.home, tmp_path / "home"))
    (wh.home / "sources" / "a.json").write_text('{"name": "toys"}')
    assert status(wh).clips == 12
