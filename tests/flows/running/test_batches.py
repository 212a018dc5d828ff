"""The stage runner on a real Prefect API.

A task a batch, nothing done twice, a lost batch costs no other.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from flows.running import batches as stages
from flows.running.runners import is_transient
from model.presets.preset import ModelError
from pipeline.stages.engine import fingerprints
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome
from tests.flows.running.lengths import Length, LengthSettings, commits, commits_of, run
from warehouse import FoleyError, Warehouse

pytestmark = pytest.mark.usefixtures("api")


class FailingFirst:
    """Raises the first time it is called, as a device that is busy for a moment does."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise self.error


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


def test_a_batch_whose_worker_died_is_tried_again_by_others_after_a_pause(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, renewed, renew = list[float](), list[bool](), stages.Runners.renew

    def counted(runners: stages.Runners) -> None:
        renewed.append(bool(pauses))
        renew(runners)

    monkeypatch.setattr(stages, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(stages.Runners, "renew", counted)
    stage = Length(LengthSettings(), FailingFirst(BrokenProcessPool("gone")))
    counts, _ = run(wh, stage, workers=1)
    assert (counts.processed, counts.lost, pauses) == (10, (), [1])
    assert renewed[:2] == [False, False], "for the first batch, and for those that are tried again"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BrokenProcessPool("gone"), True),
        (ConnectionResetError("gone"), True),
        (RuntimeError("KilledWorker('length', <WorkerState>)"), True),  # told of by another process
        (RuntimeError("a KilledWorker is no reason"), False),
        (ValueError("no length"), False),
    ],
)
def test_what_the_machinery_does_wrong_is_likely_to_pass(error: Exception, expected: bool) -> None:
    assert is_transient(error) == expected


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
