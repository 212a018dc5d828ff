"""The capacity plan is arithmetic on what the warehouse measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.capacity import capacity
from tests.warehouse.toys import make_files, run_all, stages
from warehouse import FoleyError, Warehouse, query


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capacity")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 50))
    run_all(wh, stages())
    wh.publish()
    return wh.home


def test_rates_are_those_of_the_commits_and_the_share_is_that_of_the_funnel(home: Path) -> None:
    planned = {stage.stage: stage for stage in capacity(home, 700_000, gpus=8, workers=64, worker_price=0.04).stages}
    rows = query(home, "select stage, sum(clips) / sum(seconds) as rate from commits group by stage").to_pylist()
    assert {row["stage"]: pytest.approx(row["rate"]) for row in rows if row["stage"] in planned} == {
        name: stage.rate for name, stage in planned.items()
    }
    reached = {row["stage"]: row["reached"] for row in query(home, "select stage, reached from funnel").to_pylist()}
    assert len({stage.clips for stage in planned.values()}) > 1  # later stages see only what passed
    for name, stage in planned.items():
        lanes = 8 if stage.device else 64
        assert stage.clips == pytest.approx(700_000 * reached[name] / 50, abs=1)
        assert stage.hours * 3600 * lanes == pytest.approx(stage.clips / stage.rate, rel=1e-3)
        assert stage.cost == pytest.approx(0 if stage.device else stage.hours * 64 * 0.04)


def test_before_anything_was_measured(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.publish()
    with pytest.raises(FoleyError, match="nothing was measured"):
        capacity(wh.home, 1000, gpus=1, workers=1)
