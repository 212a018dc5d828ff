"""Room for models: how many batches at once, on a GPU and in memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect import flow

from flows.parameters import BatchParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.runners import Runners
from pipeline.stages.engine import fingerprints
from pipeline.stages.memory import memory_here
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.flows.running.lengths import Length, LengthSettings, commits_of, run
from warehouse import FoleyError, Warehouse, field

pytestmark = pytest.mark.usefixtures("api")


def test_a_stage_gives_up_its_models_before_the_next_loads_its_own(wh: Warehouse) -> None:
    class Model:
        pass

    seen: list[int] = []
    models: list[weakref.ref[Model]] = []

    class Heavy(Length):
        def setup(self) -> None:
            self.model = Model()
            models.append(weakref.ref(self.model))
            seen.append(sum(model() is not None for model in models))

    class Heavier(Heavy):
        name = "heavier"
        schema = pa.schema([field("weight", pa.int64(), "a column of its own")])

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            return [Passed({"weight": 1}) for _ in clips]

    @flow(name="stages-test")
    def both() -> list[StageCounts]:
        own: list[Stage] = [Heavy(LengthSettings()), Heavier(LengthSettings())]
        return run_stages(wh, own, fingerprints(own), BatchParameters(home=wh.home, workers=2))

    assert [count.passed for count in both()] == [8, 10]
    assert seen == [1, 1]


def test_few_batches_share_a_gpu(wh: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, running, most = Length(LengthSettings()), 0, list[int]()
    lock, full = threading.Lock(), threading.Event()

    def process(clips: Sequence[Clip]) -> list[Outcome]:
        nonlocal running
        with lock:
            running += 1
            most.append(running)
            if running == 3:
                full.set()
        full.wait(0.05)
        with lock:
            running -= 1
        return [Passed({"length": 1}) for _ in clips]

    monkeypatch.setattr(stage, "process", process, raising=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    counts, _ = run(wh, stage, workers=4, batch_size=1)
    assert counts.passed == 10
    assert max(most) <= 2


class Hungry(Length):
    """A stage that takes a part of this machine's memory, or more than all of it."""

    name = "hungry"
    schema = pa.schema([field("hunger", pa.int64(), "nothing that is computed")])

    def __init__(self, share: float) -> None:
        super().__init__(LengthSettings())
        self.share = share

    @property
    def memory(self) -> int:
        return int(memory_here() * self.share)


@pytest.mark.parametrize(
    ("runner", "expected"), [("process", 2), ("dask", 2 + 1), ("thread", 5), ("ray", 5 + 1)]
)
def test_processes_are_as_many_as_have_room_in_memory(
    tmp_path: Path, runner: Any, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads share their models; Ray counts memory itself. Dask has one more waiting."""

    @flow(name="room-test")
    def at_once(stage: Stage) -> int:
        return Runners(BatchParameters(home=tmp_path, workers=5, runner=runner)).at_once(stage)

    assert at_once(Length(LengthSettings())) >= 2
    caplog.clear()
    assert at_once(Hungry(0.4)) == expected
    assert ("hungry: 2 workers and not 5: each takes about" in caplog.text) == (expected < 5)


def test_a_machine_that_is_too_small_is_said_before_any_work(wh: Warehouse) -> None:
    own: list[Stage] = [Length(LengthSettings()), Hungry(1.5)]

    @flow(name="room-test")
    def both(stages: list[Stage]) -> list[StageCounts]:
        parameters = BatchParameters(home=wh.home, workers=2, max_attempts=1)
        return run_stages(wh, stages, fingerprints(stages), parameters)

    with pytest.raises(
        FoleyError, match=r"^stage hungry needs about .* run it where there is more"
    ):
        both(own)
    assert not commits_of(wh, "length")
    both([*own[:1], Hungry(0.5)])
    assert [count.processed for count in both(own)] == [0, 0], "nothing is left to do"
