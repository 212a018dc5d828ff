"""Runs any stage: plan, a task a batch, counts. The one place where stages and Prefect meet."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.display.artifacts import ProgressArtifact
from flows.display.progress_bars import bar
from flows.errors import is_user_error
from flows.parameters import BatchParameters
from flows.running.runners import Runners, is_transient
from pipeline.stages.engine import Batch, BatchResult, Plan, plan, run_batch
from pipeline.stages.progress import progress_to
from pipeline.stages.stage import Stage
from warehouse import FoleyError, Warehouse

#: How often a batch whose worker died is run.
TRIES = 3
_LOOK_EVERY = 1.0  # seconds between two looks at how far the batches are


@dataclass(frozen=True)
class StageCounts:
    """What a run did of a stage.

    Rows written by status, rows that were there already, batches that were lost.
    """

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
    lost: tuple[str, ...] = field(default=())

    @property
    def processed(self) -> int:
        """Clips that got a row in this run."""
        return self.passed + self.rejected + self.failed


@task(cache_policy=NO_CACHE, persist_result=False)
def process_batch(
    wh: Warehouse,
    stage: Stage,
    header: Plan,
    batch: Batch,
    moved: Callable[[int], None] | None = None,
) -> BatchResult:
    """One batch of clips through one stage, committed to the warehouse.

    `moved` hears of clips on the way.
    """
    with progress_to(moved):
        result = run_batch(wh, stage, header, batch)
    get_run_logger().info(
        "%s: %d passed, %d rejected, %d failed in %.1f s",
        stage.name,
        result.passed,
        result.rejected,
        result.failed,
        result.seconds,
    )
    return result


def run_stages(
    wh: Warehouse,
    stages: Sequence[Stage],
    fps: Mapping[str, str],
    parameters: BatchParameters,
    clip_ids: Sequence[str] | None = None,
) -> list[StageCounts]:
    """Run stages one after another inside a flow.

    A batch that is lost (a crash, not a bad clip, which is a row) costs the others nothing. Raises
    FoleyError at the end if any was lost, so that the run fails visibly; the next run does what is
    missing.
    """
    with Runners(parameters) as runners:
        counts = [run_stage(wh, stage, fps, parameters, runners, clip_ids) for stage in stages]
    lost = [(c.stage, len(c.lost), c.batches, c.lost[0]) for c in counts if c.lost]
    if lost:
        stage, number, of, error = lost[0]
        more = f", and in {len(lost) - 1} more stages" if len(lost) > 1 else ""
        raise FoleyError(
            f"stage {stage}: {number} of {of} batches were lost ({error}){more}; the rest is kept, run again for these"
        )
    return counts


def run_stage(
    wh: Warehouse,
    stage: Stage,
    fps: Mapping[str, str],
    parameters: BatchParameters,
    runners: Runners,
    clip_ids: Sequence[str] | None = None,
) -> StageCounts:
    """Do what is left of a stage, a task a batch; with nothing left, start no task and say so."""
    logger = get_run_logger()
    lanes = parameters.batches_at_once
    work = plan(wh, stage, fps, clip_ids, parameters.max_attempts, parameters.batch_size, lanes)
    counts = StageCounts(
        stage.name, work.fingerprint, work.done, work.waiting, work.quarantined, len(work.batches)
    )
    if not work.batches:
        logger.info("%s: nothing to do, %d clips done before", stage.name, work.done)
        return counts
    logger.info(
        "%s: %d clips in %d batches, %d done before",
        stage.name,
        work.todo,
        len(work.batches),
        work.done,
    )
    started = perf_counter()
    results: list[BatchResult] = []
    lost: list[str] = []
    moving, inside, done = ProgressArtifact(stage.name, work.todo), _Inside(), 0
    with bar(stage.name, work.todo, "clip") as progress:
        for batch, outcome in _run_batches(wh, stage, work, runners, inside):
            done += len(batch)
            now = min(work.todo, done + inside.clips)
            progress.update(now - progress.n)
            moving.show(now)
            if outcome is None:
                continue
            if isinstance(outcome, BatchResult):
                results.append(outcome)
            elif is_user_error(outcome):
                raise outcome  # every other batch would meet the same: no weights, a full disk
            else:
                lost.append(f"{type(outcome).__name__}: {outcome}".splitlines()[0])
    return replace(
        counts,
        passed=sum(r.passed for r in results),
        rejected=sum(r.rejected for r in results),
        failed=sum(r.failed for r in results),
        seconds=perf_counter() - started,
        lost=tuple(lost),
    )


class _Inside:
    """Clips that are through in batches that are not.

    Stages say so where they run on threads of this process.
    """

    def __init__(self) -> None:
        self._clips: Counter[int] = Counter()

    def listener(self, batch: int) -> Callable[[int], None]:
        """What a batch, by its number, is to call; each is in one thread."""

        def moved(clips: int) -> None:
            self._clips[batch] += clips

        return moved

    def end(self, batch: int) -> None:
        """The batch is through, or lost."""
        self._clips.pop(batch, None)

    @property
    def clips(self) -> int:
        """Clips in all of them."""
        return sum(list(self._clips.values()))


#: A batch, and its result or error; no clips and None where time passed, for progress to be shown.
_Finished = tuple[Batch, BatchResult | BaseException | None]
_NOTHING = Batch((), (), (), ())


def _run_batches(
    wh: Warehouse, stage: Stage, work: Plan, runners: Runners, inside: _Inside
) -> Iterator[_Finished]:
    """Run batches and yield each with its result or error as it finishes.

    Those that a dead worker took with it are tried again on new workers, after a pause that
    doubles.
    """
    waiting = list(enumerate(work.batches, 1))
    for attempt in range(TRIES):
        again: list[tuple[int, Batch]] = []
        for number, batch, outcome in _run_once(wh, stage, work, waiting, runners, inside):
            if isinstance(outcome, BaseException) and is_transient(outcome) and attempt < TRIES - 1:
                again.append((number, batch))
            else:
                yield batch, outcome
        if not again:
            return
        pause = 2**attempt
        get_run_logger().warning(
            "%s: %d batches lost their worker, again in %d s", stage.name, len(again), pause
        )
        runners.renew()
        time.sleep(pause)
        waiting = again


def _run_once(
    wh: Warehouse,
    stage: Stage,
    work: Plan,
    waiting: Sequence[tuple[int, Batch]],
    runners: Runners,
    inside: _Inside,
) -> Iterator[tuple[int, Batch, BatchResult | BaseException | None]]:
    """Submit numbered batches, never more unfinished than can run at once, and yield each as it finishes."""
    named: Any = process_batch.with_options(name=stage.name, tags=[stage.name])
    header, total = work.header(), len(work.batches)
    finished: queue.SimpleQueue[PrefectFuture[BatchResult]] = queue.SimpleQueue()
    running: dict[PrefectFuture[BatchResult], tuple[int, Batch]] = {}

    def until_fewer_than(
        most: int,
    ) -> Iterator[tuple[int, Batch, BatchResult | BaseException | None]]:
        while len(running) >= most:
            try:
                future = finished.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                yield 0, _NOTHING, None
                continue
            number, batch = running.pop(future)
            inside.end(number)
            try:
                yield number, batch, future.result(raise_on_failure=False)
            except Exception as error:  # noqa: BLE001 (a broken pool refuses what comes after) (a crashed task has no result to give, but a reason)
                yield number, batch, error

    for number, batch in waiting:
        yield from until_fewer_than(runners.at_once)
        task = named.with_options(task_run_name=f"{stage.name} {number}/{total}")
        given: dict[str, Any] = {"wh": wh, "stage": stage, "header": header, "batch": batch}
        if runners.here:
            given["moved"] = inside.listener(number)
        try:
            future = runners.submit(task, given)
        except Exception as error:  # noqa: BLE001 (a broken pool refuses what comes after) (a crashed task has no result to give, but a reason)
            yield number, batch, error
            continue
        running[future] = (number, batch)
        future.add_done_callback(finished.put)
    yield from until_fewer_than(1)
