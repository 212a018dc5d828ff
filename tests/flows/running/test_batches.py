"""The stage runner on a real Prefect API.

A task a batch, nothing done twice, a lost batch costs no other.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from flows.parameters import BatchParameters
from flows.running import batches as stages
from flows.running.batches import StageCounts, run_stages
from flows.running.runners import Runners
from model.presets.preset import ModelError
from pipeline.stages.engine import fingerprints
from pipeline.stages.memory import memory_here
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from warehouse import FoleyError, Warehouse, field

pytestmark = pytest.mark.usefixtures("api")


@dataclass(frozen=True)
class LengthSettings:
    shortest: int = 2


class Length(Stage):
    """Length of a clip's id; rejects short ones."""

    name = "length"
    batch_size = 4
    schema = pa.schema([field("length", pa.int64(), "characters of the id")])

    def __init__(
        self, settings: LengthSettings, at_setup: Callable[[], None] = lambda: None
    ) -> None:
        self.settings = settings
        self.at_setup = at_setup

    def setup(self) -> None:
        self.at_setup()

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [self._one(clip["clip_id"]) for clip in clips]

    def _one(self, clip_id: str) -> Outcome:
        if "bad" in clip_id:
            raise ValueError("no length")
        if len(clip_id) < self.settings.shortest:
            return Rejected("too short")
        return Passed({"length": len(clip_id)})


class FailingFirst:
    """Raises the first time it is called, as a device that is busy for a moment does."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise self.error


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    """Ten clips: eight of two letters, one of one letter, one whose processing raises."""
    warehouse = Warehouse(tmp_path / "home")
    rows: list[dict[str, Any]] = []
    for name in [*(f"c{i}" for i in range(8)), "a", "bad"]:
        file = tmp_path / f"{name}.bin"
        file.write_text(name)
        rows.append({"clip_id": name, "path": str(file), "source": "test"})
    warehouse.ingest(pa.Table.from_pylist(rows))
    return warehouse


def run(wh: Warehouse, stage: Stage, **options: Any) -> tuple[StageCounts, str]:
    """Run one stage in a flow of its own; its counts, and the id of the flow run."""
    from prefect.runtime import flow_run

    @flow(name="stage-test")
    def once() -> tuple[StageCounts, str]:
        given: dict[str, Any] = {"workers": 2} | options
        parameters = BatchParameters(home=wh.home, **given)
        return run_stages(wh, [stage], fingerprints([stage]), parameters)[0], str(flow_run.id)

    return once()


def task_runs(flow_run: str, expected: int) -> list[TaskRun]:
    """Task runs of a flow run as the API has them.

    It takes them in one by one, so wait for as many as are expected.
    """
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run)]))
    end = time.monotonic() + 120
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_task_runs(flow_run_filter=chosen)
            if len(found) >= expected or time.monotonic() > end:
                return found
            time.sleep(0.1)


def commits(wh: Warehouse) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in wh.home.glob("commits/**/*.parquet")}


def commits_of(wh: Warehouse, stage: str) -> list[str]:
    return [path for path in commits(wh) if f"/{stage}/" in path]


def test_every_clip_gets_its_row_and_every_batch_its_task(wh: Warehouse) -> None:
    counts, _ = run(wh, Length(LengthSettings()), workers=2)
    assert (counts.passed, counts.rejected, counts.failed, counts.batches) == (8, 1, 1, 3)
    assert counts.lost == ()
    stage = Length(LengthSettings())
    rows = wh.rows("length", fingerprints([stage])["length"]).to_pylist()
    assert [row["length"] for row in rows] == [len(row["clip_id"]) for row in rows]


def test_a_second_run_does_nothing_and_starts_no_task(wh: Warehouse) -> None:
    stage = Length(LengthSettings())
    run(wh, stage, max_attempts=1)
    before = commits(wh)
    counts, flow_run = run(wh, stage, max_attempts=1)
    assert (counts.processed, counts.batches, counts.done_before, counts.quarantined) == (
        0,
        0,
        9,
        1,
    )
    assert commits(wh) == before
    _, later = run(wh, Length(LengthSettings(shortest=1)))
    assert (
        len(task_runs(later, 3)) == 3
    )  # the API has heard of what came after, so of all that came before
    assert task_runs(flow_run, 0) == []


def test_other_settings_are_other_work(wh: Warehouse) -> None:
    run(wh, Length(LengthSettings()))
    counts, _ = run(wh, Length(LengthSettings(shortest=1)))
    assert (counts.passed, counts.rejected, counts.failed) == (9, 0, 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_lost_batch_costs_no_other_and_is_done_by_the_next_run(
    wh: Warehouse, workers: int
) -> None:
    stage = Length(LengthSettings(), FailingFirst(RuntimeError("device busy")))
    with pytest.raises(FoleyError, match=r"stage length: 1 of 3 batches were lost .*device busy"):
        run(wh, stage, workers=workers)
    kept = commits(wh)
    assert len(commits_of(wh, "length")) == 2
    counts, _ = run(wh, stage, workers=workers, max_attempts=1)
    assert counts.processed + counts.done_before + counts.quarantined == 10
    assert kept.items() <= commits(wh).items()


def test_what_every_batch_would_meet_stops_the_stage_at_once(wh: Warehouse) -> None:
    at_setup = FailingFirst(ModelError("no weights"))
    with pytest.raises(ModelError, match="no weights"):
        run(wh, Length(LengthSettings(), at_setup), workers=1)
    assert at_setup.calls == 1
    assert not commits_of(wh, "length")


def test_little_work_is_shared_by_all_workers(wh: Warehouse) -> None:
    counts, _ = run(wh, Length(LengthSettings()), workers=5)
    assert counts.batches == 5  # two clips each, and not three batches of the stage's own size


def test_a_batch_says_how_far_it_is(wh: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage waits after each clip until the bar was moved there.

    With no progress in a batch it would hang.
    """
    shown: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(stages, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(stages.ProgressArtifact, "show", lambda self, done: shown.put(done))

    class Slow(Length):
        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            for done in range(1, len(clips) + 1):
                advance(1)
                while shown.get(timeout=60) < done:
                    pass
            return super().process(clips)

    counts, _ = run(wh, Slow(LengthSettings()), workers=1, batch_size=10)
    assert counts.batches == 1


def test_batches_are_named_and_tagged_in_the_api(wh: Warehouse) -> None:
    _, flow_run = run(wh, Length(LengthSettings()))
    found = task_runs(flow_run, 3)
    assert sorted(run.name for run in found) == ["length 1/3", "length 2/3", "length 3/3"]
    assert [set(run.tags) for run in found] == [{"length", "gpu"}] * 3


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
