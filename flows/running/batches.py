"""Runs stages inside a flow, a task a batch: the one place where stages and Prefect meet."""

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture

from flows.display.artifacts import ProgressArtifact
from flows.display.progress_bars import bar
from flows.parameters import BatchParameters
from flows.running.devices import settle_on_one
from flows.running.runners import BATCHES_A_DEVICE, Runners, check_room, is_transient
from pipeline.stages.engine import Batch, BatchResult, Plan, Split, plan, run_batch
from pipeline.stages.loading import let_go
from pipeline.stages.memory import memory_here
from pipeline.stages.progress import progress_to
from pipeline.stages.stage import Stage
from warehouse import FoleyError, Warehouse

#: How often a batch whose worker died is run.
TRIES = 3
_LOOK_EVERY = 1.0  # seconds between two looks at how far the batches are


@dataclass(frozen=True)
class StageCounts:
    """What a run did of a stage: rows written by status, rows from before, batches lost."""

    stage: str
    fingerprint: str
    done_before: int
    waiting: int
    quarantined: int
    batches: int = 0
    passed: int = 0
    rejected: int = 0
    failed: int = 0
    seconds: float = 0.0
    lost: tuple[str, ...] = ()

    @property
    def processed(self) -> int:
        """Clips that got a row in this run."""
        return self.passed + self.rejected + self.failed


def run_stages(
    wh: Warehouse,
    stages: Sequence[Stage],
    fingerprints: Mapping[str, str],
    parameters: BatchParameters,
    clip_ids: Sequence[str] | None = None,
) -> list[StageCounts]:
    """Run stages one after another; with nothing left to do in one, no task is started.

    A batch that is lost (a crash, not a bad clip, which is a row) costs the others nothing. Raises
    FoleyError at the end if any was lost, so that the run fails visibly; the next run does what is
    missing; and before any work where this machine has too little memory for a stage.
    """
    split = Split(parameters.max_attempts, parameters.batch_size, parameters.batches_at_once)
    counts: list[StageCounts] = []
    if not parameters.cluster:
        _check_room(stages, (plan(wh, stage, fingerprints, clip_ids, split) for stage in stages))
    with Runners(parameters) as runners:
        for stage in stages:
            work = plan(wh, stage, fingerprints, clip_ids, split)
            counts.append(_StageRun(wh, stage, work, runners).run())
            let_go(stage)
    lost = [count for count in counts if count.lost]
    if lost:
        first = lost[0]
        more = f", and in {len(lost) - 1} more stages" if len(lost) > 1 else ""
        raise FoleyError(
            f"stage {first.stage}: {len(first.lost)} of {first.batches} batches were lost "
            f"({first.lost[0]}){more}; the rest is kept, run again for these"
        )
    return counts


def _check_room(stages: Sequence[Stage], plans: Iterable[Plan]) -> None:
    """Raise FoleyError where this machine is too small for a stage that has work, or will have."""
    here = memory_here()
    if all(stage.memory <= here for stage in stages):
        return  # nothing is planned twice
    begun = False
    for stage, work in zip(stages, plans, strict=True):
        begun = begun or work.todo > 0
        if begun:
            check_room(stage, [here])


@task(persist_result=False)
def process_batch(
    wh: Warehouse,
    stage: Stage,
    work: Plan,
    batch: Batch,
    on_progress: Callable[[int], None] | None = None,
) -> BatchResult:
    """One batch of clips through one stage, committed to the warehouse."""
    if stage.needs == "gpu":
        settle_on_one(BATCHES_A_DEVICE)
    with progress_to(on_progress):
        result = run_batch(wh, stage, work, batch)
    get_run_logger().info(
        f"{stage.name}: {result.passed} passed, {result.rejected} rejected, "
        f"{result.failed} failed in {result.seconds:.1f} s"
    )
    return result


#: A numbered batch, and its result or error, or None where time passed and nothing finished.
_Event = tuple[int, Batch, BatchResult | BaseException | None]
_NOTHING_YET: _Event = (0, Batch((), (), (), ()), None)


class _StageRun:
    """The batches of one stage in one run: submitted, watched, tried again, counted."""

    def __init__(self, wh: Warehouse, stage: Stage, work: Plan, runners: Runners) -> None:
        self.wh, self.stage, self.work, self.runners = wh, stage, work, runners
        tags = [stage.name, stage.needs]
        self._task: Any = process_batch.with_options(name=stage.name, tags=tags)
        self._running: dict[PrefectFuture[BatchResult], tuple[int, Batch]] = {}
        self._finished: queue.SimpleQueue[PrefectFuture[BatchResult]] = queue.SimpleQueue()
        #: Clips that are through in batches that are not. Only threads of this process tell.
        self._inside: Counter[int] = Counter()

    def run(self) -> StageCounts:
        """Do what is left of the stage, and show how far it is."""
        name, work, batches = self.stage.name, self.work, len(self.work.batches)
        if not batches:
            get_run_logger().info(f"{name}: nothing to do, {work.done} clips done before")
            return self._counts([], [], 0.0)
        get_run_logger().info(
            f"{name}: {work.todo} clips in {batches} batches, {work.done} done before"
        )
        started = perf_counter()
        results: list[BatchResult] = []
        lost: list[str] = []
        artifact, done = ProgressArtifact(name, work.todo), 0
        with bar(name, work.todo, "clip") as progress:
            for _, batch, outcome in self._with_retries():
                done += len(batch)
                clips = min(work.todo, done + sum(list(self._inside.values())))
                progress.update(clips - progress.n)
                artifact.show(clips)
                if isinstance(outcome, BatchResult):
                    results.append(outcome)
                elif outcome is not None:
                    if isinstance(outcome, FoleyError):
                        raise outcome  # every other batch would meet it: no weights, a full disk
                    lost.append(f"{type(outcome).__name__}: {outcome}".splitlines()[0])
        return self._counts(results, lost, perf_counter() - started)

    def _counts(
        self, results: Sequence[BatchResult], lost: Sequence[str], seconds: float
    ) -> StageCounts:
        work = self.work
        return StageCounts(
            *(work.stage, work.fingerprint, work.done, work.waiting, work.quarantined),
            batches=len(work.batches),
            passed=sum(result.passed for result in results),
            rejected=sum(result.rejected for result in results),
            failed=sum(result.failed for result in results),
            seconds=seconds,
            lost=tuple(lost),
        )

    def _with_retries(self) -> Iterator[_Event]:
        """Every batch with its result or error, as it finishes.

        Those that a dead worker took with it are tried again on new workers, after a pause that
        doubles.
        """
        waiting = list(enumerate(self.work.batches, 1))
        for attempt in range(TRIES):
            again: list[tuple[int, Batch]] = []
            for number, batch, outcome in self._once(waiting):
                died = isinstance(outcome, BaseException) and is_transient(outcome)
                if died and attempt < TRIES - 1:
                    again.append((number, batch))
                else:
                    yield number, batch, outcome
            if not again:
                return
            pause = 2**attempt
            get_run_logger().warning(
                f"{self.stage.name}: {len(again)} batches lost their worker, again in {pause} s"
            )
            self.runners.renew()
            time.sleep(pause)
            waiting = again

    def _once(self, waiting: Sequence[tuple[int, Batch]]) -> Iterator[_Event]:
        """Submit batches, never more unfinished than can run at once."""
        for number, batch in waiting:
            yield from self._until_fewer_than(self.runners.at_once(self.stage))
            try:
                future = self._submit(number, batch)
            except Exception as error:  # noqa: BLE001 (a broken pool refuses what comes after)
                yield number, batch, error
                continue
            self._running[future] = (number, batch)
            future.add_done_callback(self._finished.put)
        yield from self._until_fewer_than(1)

    def _submit(self, number: int, batch: Batch) -> PrefectFuture[BatchResult]:
        name = f"{self.stage.name} {number}/{len(self.work.batches)}"
        arguments: dict[str, object] = {"wh": self.wh, "stage": self.stage, "batch": batch}
        arguments["work"] = self.work.header()
        if self.runners.here:
            arguments["on_progress"] = partial(self._advance, number)
        task = self._task.with_options(task_run_name=name)
        return self.runners.submit(task, arguments, self.stage)

    def _advance(self, number: int, clips: int) -> None:
        self._inside[number] += clips

    def _until_fewer_than(self, most: int) -> Iterator[_Event]:
        while len(self._running) >= most:
            try:
                future = self._finished.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                yield _NOTHING_YET
                continue
            number, batch = self._running.pop(future)
            self._inside.pop(number, None)
            try:
                yield number, batch, future.result(raise_on_failure=False)
            except Exception as error:  # noqa: BLE001 (a crashed task has a reason, and no result)
                yield number, batch, error
