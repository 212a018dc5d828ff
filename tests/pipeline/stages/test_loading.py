"""Models of stages: loaded once, left behind where a stage travels, and let go when it is done."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.loading import let_go
from pipeline.stages.stage import Clip, Outcome
from tests.warehouse.toys import Facts, make_files
from warehouse import Warehouse


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", 30))
    return warehouse


def test_setup_runs_once_and_stays_behind_when_a_stage_travels(wh: Warehouse) -> None:
    fps = fingerprints([Loaded()])
    stage = Loaded()
    work = plan(wh, stage, fps)
    for batch in work.batches[:2]:
        run_batch(wh, stage, work, batch)
    assert stage.loads == 1
    copies = [pickle.loads(pickle.dumps(stage)) for _ in range(2)]
    assert not hasattr(copies[0], "model")
    for copy, batch in zip(copies, work.batches[2:4], strict=True):
        run_batch(wh, copy, work, batch)
    assert [copy.loads for copy in copies] == [1, 0], "the second copy uses the first one's model"


class Loaded(Facts):
    """A stage with a model."""

    name = "loaded"
    loads = 0

    def setup(self) -> None:
        self.model = Weighty()
        self.loads += 1


def test_a_stage_that_is_done_keeps_no_model_and_can_be_set_up_again(wh: Warehouse) -> None:
    fps = fingerprints([Loaded()])
    stage = Loaded()
    work = plan(wh, stage, fps)
    kept = Weighty()  # by the caller, also while the stage runs
    run_batch(wh, stage, work, work.batches[0])
    model, callers = weakref.ref(stage.model), weakref.ref(kept)
    let_go(stage)
    assert model() is None
    del kept
    gc.collect()
    assert callers() is None, "what was set aside while models were looked for is looked at again"
    run_batch(wh, stage, work, work.batches[1])
    assert stage.model is not None
    let_go(Loaded())  # one that had nothing to do


def test_a_stage_processes_in_what_it_runs_in(wh: Warehouse) -> None:
    inside: list[bool] = []

    class Entered(Facts):
        @contextmanager
        def running(self) -> Generator[None]:
            inside.append(True)
            yield
            inside.append(False)

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            assert inside[-1]
            return super().process(clips)

    stage, fps = Entered(), fingerprints([Entered()])
    work = plan(wh, stage, fps)
    run_batch(wh, stage, work, work.batches[0])
    assert inside[:1] == [True]
    assert inside[-1] is False


class Weighty:
    """A model that refers to itself, as modules with hooks do."""

    def __init__(self) -> None:
        self.itself = self
