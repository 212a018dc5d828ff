"""Runs any stage: plan, a task a batch, counts. The one place where stages and Prefect meet."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from flows.bars import bar
from flows.errors import is_user_error
from flows.parameters import BatchParameters
from pipeline.engine import Batch, BatchResult, Plan, plan, run_batch
from pipeline.stage import Stage
from warehouse import FoleyError, Warehouse


@dataclass(frozen=True)
class StageCounts:
    """What a run did of a stage: rows written by status, rows that were there already, batches that were lost."""

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
def process_batch(wh: Warehouse, stage: Stage, header: Plan, batch: Batch) -> BatchResult:
    """One batch of clips through one stage, committed to the warehouse."""
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

    A batch that is lost (a crash, not a bad clip, which is a row) costs the others nothing. Raises FoleyError at the
    end if any was lost, so that the run fails visibly; the next run does what is missing.
    """
    counts = [run_stage(wh, stage, fps, parameters, clip_ids) for stage in stages]
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
    clip_ids: Sequence[str] | None = None,
) -> StageCounts:
    """Do what is left of a stage, a task a batch; with nothing left, start no task and say so."""
    logger = get_run_logger()
    work = plan(wh, stage, fps, clip_ids, parameters.max_attempts, parameters.batch_size)
    counts = StageCounts(stage.name, work.fingerprint, work.done, work.waiting, work.quarantined, len(work.batches))
    if not work.batches:
        logger.info("%s: nothing to do, %d clips done before", stage.name, work.done)
        return counts
    logger.info("%s: %d clips in %d batches, %d done before", stage.name, work.todo, len(work.batches), work.done)
    started = perf_counter()
    results: list[BatchResult] = []
    lost: list[str] = []
    with bar(stage.name, work.todo, "clip") as progress:
        for batch, outcome in _run_batches(wh, stage, work, parameters.batches_at_once):
            progress.update(len(batch))
            if isinstance(outcome, BatchResult):
                results.append(outcome)
            elif is_user_error(outcome):
                raise outcome  # every other batch would meet the same: no weights, a full disk
            else:
                lost.append(f"{type(outcome).__name__}: {outcome}".splitlines()[0])
    return StageCounts(
        **{name: getattr(counts, name) for name in ("stage", "fingerprint", "done_before", "waiting", "quarantined")},
        batches=len(work.batches),
        passed=sum(r.passed for r in results),
        rejected=sum(r.rejected for r in results),
        failed=sum(r.failed for r in results),
        seconds=perf_counter() - started,
        lost=tuple(lost),
    )


def _run_batches(
    wh: Warehouse, stage: Stage, work: Plan, at_once: int
) -> Iterator[tuple[Batch, BatchResult | BaseException]]:
    """Submit batches, never more than `at_once` unfinished, and yield each with its result or error as it finishes."""
    named: Any = process_batch.with_options(name=stage.name, tags=[stage.name])
    header, total = work.header(), len(work.batches)
    finished: queue.SimpleQueue[PrefectFuture[BatchResult]] = queue.SimpleQueue()
    running: dict[PrefectFuture[BatchResult], Batch] = {}

    def next_finished() -> tuple[Batch, BatchResult | BaseException]:
        future = finished.get()
        batch = running.pop(future)
        try:
            return batch, future.result(raise_on_failure=False)
        except Exception as error:  # noqa: BLE001 (a crashed task has no result to give, but a reason)
            return batch, error

    for number, batch in enumerate(work.batches, 1):
        if len(running) >= at_once:
            yield next_finished()
        future = named.with_options(task_run_name=f"{stage.name} {number}/{total}").submit(wh, stage, header, batch)
        running[future] = batch
        future.add_done_callback(finished.put)
    while running:
        yield next_finished()
