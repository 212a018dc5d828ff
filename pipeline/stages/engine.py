"""Runs stages over clips: what there is to do (`plan`), and one batch of it (`run_batch`)."""

import errno
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pyarrow as pa

from pipeline.stages.checks import checked
from pipeline.stages.loading import set_up
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Rejected, Stage
from warehouse.catalog.tables import RESERVED
from warehouse.commits import Descriptor, commit_id, schema_text
from warehouse.errors import FoleyError
from warehouse.files import identity_hash
from warehouse.rows.live import input_of
from warehouse.rows.worklist import work_list
from warehouse.schema import MAX_ATTEMPTS, SPINE
from warehouse.store import Warehouse

#: Errors that no clip is to blame for.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)


@dataclass(frozen=True)
class Batch:
    """Clips to do in one task, with the input, generation and attempt of their future rows."""

    clip_ids: tuple[str, ...]
    inputs: tuple[int, ...]
    generations: tuple[int, ...]
    attempts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass(frozen=True)
class Split:
    """How work is divided into batches, and how often a clip is tried."""

    max_attempts: int = MAX_ATTEMPTS
    # None: the stage's own, or less where that would leave one of the parallel batches empty
    batch_size: int | None = None
    parallel_batches: int = 1


@dataclass(frozen=True)
class Plan:
    """Work of a stage under a fingerprint, and why there is not more of it."""

    stage: str
    fingerprint: str
    batches: tuple[Batch, ...]
    done: int  # clips that have a verified row
    waiting: int  # that have not passed the upstream stages
    quarantined: int  # that failed too often
    upstream: Mapping[str, str]

    @property
    def todo(self) -> int:
        """Clips in the batches."""
        return sum(len(batch) for batch in self.batches)

    def header(self) -> Self:
        """The plan without its batches, small enough to travel with every task."""
        return replace(self, batches=())


@dataclass(frozen=True)
class BatchResult:
    """What came of a batch: counts by status, wall seconds, and the commit that holds the rows.

    There is none when all clips changed since the batch was planned.
    """

    passed: int
    rejected: int
    failed: int
    seconds: float
    commit: Path | None


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """Fingerprint of every stage, by name; stages come in order.

    It is a hash of name, version, settings, columns, weights and the upstream fingerprints. Raises
    FoleyError when an upstream is missing or a name comes twice.
    """
    prints: dict[str, str] = {}
    for stage in stages:
        missing = [name for name in stage.upstream if name not in prints]
        if missing:
            raise FoleyError(
                f"stage {stage.name} needs {', '.join(missing)} before it: list the stages in order"
            )
        if stage.name in prints or stage.name in RESERVED:
            raise FoleyError(f"a stage cannot be called {stage.name}: the name is taken")
        identity = {
            "name": stage.name,
            "version": stage.version,
            "settings": _settings(stage),
            "columns": [(f.name, str(f.type)) for f in stage.schema],
            "reads": sorted(stage.reads),
            "model_revision": stage.model_revision,
            "upstream": {name: prints[name] for name in stage.upstream},
        }
        prints[stage.name] = identity_hash(identity)
    return prints


def _settings(stage: Stage) -> dict[str, object]:
    """The settings as JSON gives them back: what is recorded is what is compared later."""
    return json.loads(json.dumps(asdict(stage.settings), sort_keys=True, default=str))


def plan(
    wh: Warehouse,
    stage: Stage,
    fingerprints: Mapping[str, str],
    clip_ids: Sequence[str] | None = None,
    split: Split = Split(),
) -> Plan:
    """Work to do: clips that passed upstream, minus those with a verified row of this fingerprint.

    Verified: the commit file exists with the size and rows that its name promises. Failed clips
    come again until they have failed `max_attempts` times. Batches are in order of clip_id; the
    same state gives the same batches.
    """
    descriptor = describe(wh, stage, fingerprints)
    work = work_list(wh, descriptor, clip_ids, split.max_attempts)
    columns = [column.to_pylist() for column in work.todo.columns]
    count = work.todo.num_rows
    size = split.batch_size
    size = size or max(1, min(stage.batch_size, math.ceil(count / split.parallel_batches)))
    return Plan(
        stage=stage.name,
        fingerprint=descriptor.fingerprint,
        batches=tuple(
            Batch(*(tuple(column[i : i + size]) for column in columns))
            for i in range(0, count, size)
        ),
        done=work.ready - count - work.quarantined,
        waiting=work.clips - work.ready,
        quarantined=work.quarantined,
        upstream=descriptor.upstream,
    )


def describe(wh: Warehouse, stage: Stage, fingerprints: Mapping[str, str]) -> Descriptor:
    """Note what the stage's fingerprint stands for, and make it the stage's current one."""
    upstream = {name: fingerprints[name] for name in stage.upstream}
    inherited = [wh.descriptor(name, fingerprint).reads for name, fingerprint in upstream.items()]
    descriptor = Descriptor(
        stage=stage.name,
        fingerprint=fingerprints[stage.name],
        version=stage.version,
        settings=_settings(stage),
        model_revision=stage.model_revision,
        upstream=upstream,
        reads=sorted(set(stage.reads).union(*inherited)),
        schema=schema_text(stage.schema),
        scope=stage.scope,
        position=list(fingerprints).index(stage.name),
        doc=(type(stage).__doc__ or "").strip().split("\n")[0],
    )
    wh.describe(descriptor)
    return descriptor


def run_batch(wh: Warehouse, stage: Stage, plan: Plan, batch: Batch) -> BatchResult:
    """Process a batch and commit one row for every clip of it.

    What a clip does wrong costs that clip a `failed` row. What the machine does wrong (full disk,
    an unreadable commit, weights that do not load) is raised and costs nothing: the batch is still
    to do.
    """
    stage = set_up(stage, plan.fingerprint)
    batch, clips = _present_clips(wh, plan, batch)
    if not clips:
        return BatchResult(0, 0, 0, 0.0, None)
    started = time.perf_counter()
    outcomes = [
        checked(stage, clip, outcome)
        for clip, outcome in zip(clips, _process(stage, clips), strict=True)
    ]
    seconds = time.perf_counter() - started
    id = commit_id(
        [plan.stage, plan.fingerprint, *batch.clip_ids, *batch.inputs, *batch.generations]
    )
    path = wh.commit(plan.stage, plan.fingerprint, id, _rows(stage, batch, outcomes, id, seconds))
    kinds = [type(outcome) for outcome in outcomes]
    passed, rejected, failed = (kinds.count(kind) for kind in (Passed, Rejected, Failed))
    return BatchResult(passed, rejected, failed, seconds, path)


def _present_clips(wh: Warehouse, plan: Plan, batch: Batch) -> tuple[Batch, list[Clip]]:
    """The batch's clips with the columns of their upstream stages.

    Clips that were replaced since the batch was planned are left out of both: their rows would
    carry the wrong input.
    """
    clips: dict[str, dict[str, object]] = {
        row["clip_id"]: row for row in wh.clips(None, batch.clip_ids).to_pylist()
    }
    for name, fingerprint in plan.upstream.items():
        for row in wh.rows(name, fingerprint, clip_ids=batch.clip_ids).to_pylist():
            if row["clip_id"] in clips:
                clips[row["clip_id"]].update(row)
    reads = wh.descriptor(plan.stage, plan.fingerprint).reads
    present = [
        i
        for i, id in enumerate(batch.clip_ids)
        if id in clips and input_of(clips[id], reads) == batch.inputs[i]
    ]
    batch = Batch(*(tuple(column[i] for i in present) for column in vars(batch).values()))
    return batch, [clips[id] for id in batch.clip_ids]


def _process(stage: Stage, clips: Sequence[Clip]) -> list[Outcome]:
    """Outcomes of a batch; when it raises, clip by clip, so that only the guilty one fails."""
    try:
        with stage.running():
            outcomes = stage.process(clips)
    except FoleyError:
        raise
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in _MACHINE:
            raise FoleyError(f"stage {stage.name} cannot go on: {os.strerror(exc.errno)}") from exc
        if len(clips) == 1:
            return [Failed.from_exception(exc)]
        return [outcome for clip in clips for outcome in _process(stage, [clip])]
    if len(outcomes) != len(clips):
        wrong = f"stage {stage.name} gave {len(outcomes)} outcomes for {len(clips)} clips"
        return [Failed("OutcomeError", wrong) for _ in clips]
    return outcomes


def _rows(
    stage: Stage, batch: Batch, outcomes: Sequence[Outcome], commit: str, seconds: float
) -> pa.Table:
    """One row a clip: the spine, then the stage's columns."""
    count, columns = len(batch), stage.schema.names
    values: dict[str, Sequence[object]] = {
        "clip_id": batch.clip_ids,
        "input": batch.inputs,
        "generation": batch.generations,
        "attempt": batch.attempts,
        "status": [type(outcome).__name__.lower() for outcome in outcomes],
        "seconds": [seconds / count] * count,
        "committed_at": [datetime.now(UTC)] * count,
        "commit": [commit] * count,
    }
    for name in ("reason", "error", "message"):
        values[name] = [getattr(outcome, name, None) for outcome in outcomes]
    own = [{} if isinstance(outcome, Failed) else outcome.columns for outcome in outcomes]
    values |= {name: [row.get(name) for row in own] for name in columns}
    schema = pa.schema([*SPINE, *stage.schema])
    return pa.table([pa.array(values[f.name], f.type) for f in schema], schema=schema)
