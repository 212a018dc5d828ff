"""A warehouse with all its work done, and copies of it to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.curation.policy import select
from tests.warehouse.damage import HASHES
from tests.warehouse.toys import POLICY, make_files, run_all, stages
from warehouse import Warehouse


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """30 clips, all stages done, a dataset."""
    folder = tmp_path_factory.mktemp("calm")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 30))
    run_all(wh, stages())
    select(wh, HASHES, POLICY)
    return wh


@pytest.fixture
def wh(calm: Warehouse, tmp_path: Path) -> Warehouse:
    """A copy that this process has not looked at."""
    shutil.copytree(calm.home, tmp_path / "home")
    return Warehouse(tmp_path / "home")


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no commit be read whole before a query, as those with arrays are not."""
    monkeypatch.setattr("warehouse.rows.damage._SMALL_FILE", 0)
    monkeypatch.setattr("warehouse.rows.damage._SMALL_ROW", 0)
