"""A small dataset with features, whose clips differ in length."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from model.presets.preset import Preset
from tests.pipeline.small import Curated, curate, short_preset
from warehouse import Warehouse


@pytest.fixture(scope="session")
def preset() -> Preset:
    return short_preset()


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, preset: Preset) -> Curated:
    """What all tests begin with; not to be changed."""
    return curate(tmp_path_factory.mktemp("untrained"), preset)


@pytest.fixture
def curated(tmp_path: Path, untrained: Curated) -> Curated:
    """A copy of it, to be trained on."""
    wh = Warehouse(shutil.copytree(untrained.wh.home, tmp_path / "home"))
    return replace(untrained, wh=wh, dataset=wh.dataset(untrained.dataset.version))
