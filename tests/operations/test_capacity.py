"""The capacity plan is arithmetic on what the warehouse measured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome
from tests.warehouse.toys import Text, make_files, run_all, stages
from warehouse import FoleyError, Warehouse, query
from warehouse.catalog.capacity import Resources, capacity


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capacity")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 50))
    run_all(wh, stages())
    wh.publish()
    return wh.home


def test_rates_are_those_of_the_commits_and_the_share_is_that_of_the_funnel(home: Path) -> None:
    planned = {
        stage.stage: stage
        for stage in capacity(home, 700_000, Resources(8, 64, worker_price=0.04)).stages
    }
    rows = query(
        home, "select stage, sum(clips) / sum(seconds) as rate from commits group by stage"
    ).to_pylist()
    assert {
        row["stage"]: pytest.approx(row["rate"]) for row in rows if row["stage"] in planned
    } == {name: stage.rate for name, stage in planned.items()}
    reached = {
        row["stage"]: row["reached"]
        for row in query(home, "select stage, reached from funnel").to_pylist()
    }
    assert len({stage.clips for stage in planned.values()}) > 1  # later stages see only what passed
    for name, stage in planned.items():
        lanes = 8 if stage.device else 64
        assert stage.clips == pytest.approx(700_000 * reached[name] / 50, abs=1)
        assert stage.hours * 3600 * lanes == pytest.approx(stage.clips / stage.rate, rel=1e-3)
        assert stage.cost == pytest.approx(0 if stage.device else stage.hours * 64 * 0.04)


class Model(Text):
    """A stage with a model, three batches of which run at once."""

    name = "model"
    together = threading.Barrier(3)

    @property
    def model_revision(self) -> str:
        return "revision"

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        self.together.wait(60)
        found = super().process(clips)
        self.together.wait(60)
        return found


def test_batches_that_share_a_device_do_not_make_it_slower(tmp_path: Path) -> None:
    wh, stage = Warehouse(tmp_path / "home"), Model()
    wh.ingest(make_files(tmp_path / "media", 3 * stage.batch_size))
    work = plan(wh, stage, fingerprints([stage]))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda batch: run_batch(wh, stage, work.header(), batch), work.batches))
    wh.publish()
    rows = query(
        wh.home, "select epoch(committed_at) as ended, seconds from commits where stage = 'model'"
    ).to_pylist()
    busy = max(row["ended"] for row in rows) - min(row["ended"] - row["seconds"] for row in rows)
    planned = capacity(wh.home, 700_000, Resources(8, 64)).stages[-1]
    assert planned.device
    assert planned.rate == pytest.approx(planned.measured / busy, rel=1e-2)
    assert planned.rate > planned.measured / sum(row["seconds"] for row in rows)


def test_before_anything_was_measured(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.publish()
    with pytest.raises(FoleyError, match="nothing was measured"):
        capacity(wh.home, 1000, Resources())
