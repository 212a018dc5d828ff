"""Runs stages over clips: what is there to do (`plan`), and doing one batch of it (`run_batch`)."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

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
    """Clips to do in one task, with the input, generation and attempt of the rows that they will get."""

    clip_ids: tuple[str, ...]
    inputs: tuple[int, ...]
    generations: tuple[int, ...]
    attempts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass(frozen=True)
class Plan:
    """Work of a stage under a fingerprint, and why there is not more of it.

    `done` clips have a verified row; `waiting` ones have not passed the upstream stages;
    `quarantined` ones failed too often; `damaged` are commit files that did not verify, whose clips
    are in the batches again.
    """

    stage: str
    fingerprint: str
    batches: tuple[Batch, ...]
    done: int
    waiting: int
    quarantined: int
    damaged: tuple[str, ...]
    upstream: Mapping[str, str]

    @property
    def todo(self) -> int:
        """Clips in the batches."""
        return sum(len(batch) for batch in self.batches)

    def header(self) -> Plan:
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
    """Fingerprint of every stage: a hash of its name, version, settings, columns, weights and upstream fingerprints.

    Stages come in order. Raises FoleyError when an upstream is missing or a name comes twice.
    """
    found: dict[str, str] = {}
    for stage in stages:
        missing = [name for name in stage.upstream if name not in found]
        if missing:
            raise FoleyError(
                f"stage {stage.name} needs {', '.join(missing)} before it: list the stages in order"
            )
        if stage.name in found or stage.name in RESERVED:
            raise FoleyError(f"a stage cannot be called {stage.name}: the name is taken")
        found[stage.name] = _fingerprint(stage, {name: found[name] for name in stage.upstream})
    return found


def _fingerprint(stage: Stage, upstream: Mapping[str, str]) -> str:
    parts = {
        "name": stage.name,
        "version": stage.version,
        "settings": _settings(stage),
        "columns": [(f.name, str(f.type)) for f in stage.schema],
        "reads": sorted(stage.reads),
        "model_revision": stage.model_revision,
        "upstream": dict(sorted(upstream.items())),
    }
    return identity_hash(parts)


def _settings(stage: Stage) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(stage.settings), sort_keys=True, default=str))


def plan(
    wh: Warehouse,
    stage: Stage,
    fps: Mapping[str, str],
    clip_ids: Sequence[str] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    batch_size: int | None = None,
    lanes: int = 1,
) -> Plan:
    """Work to do: clips that passed upstream, minus those with a verified row under this fingerprint.

    Verified: the commit file exists with the size and rows that its name promises. Failed clips
    come again until they have failed `max_attempts` times. Batches are in order of clip_id; the
    same state gives the same batches. Without a `batch_size` they have the stage's own, or less
    where that would leave one of the `lanes` without any.
    """
    descriptor = describe(wh, stage, fps)
    work = work_list(wh, descriptor, clip_ids, max_attempts)
    ids, inputs = work.todo["clip_id"].to_pylist(), work.todo["input"].to_pylist()
    generations, attempts = work.todo["generation"].to_pylist(), work.todo["attempt"].to_pylist()
    size = batch_size or max(1, min(stage.batch_size, math.ceil(len(ids) / lanes)))
    batches = tuple(
        Batch(*(tuple(column[i : i + size]) for column in (ids, inputs, generations, attempts)))
        for i in range(0, len(ids), size)
    )
    return Plan(
        stage=stage.name,
        fingerprint=descriptor.fingerprint,
        batches=batches,
        done=work.ready - len(ids) - work.quarantined,
        waiting=work.clips - work.ready,
        quarantined=work.quarantined,
        damaged=work.damaged,
        upstream=descriptor.upstream,
    )


def describe(wh: Warehouse, stage: Stage, fps: Mapping[str, str]) -> Descriptor:
    """Note in the warehouse what the stage's fingerprint stands for, and make it the stage's current one."""
    upstream = {name: fps[name] for name in stage.upstream}
    reads = set(stage.reads)
    for name, fingerprint in upstream.items():
        reads |= set(wh.descriptor(name, fingerprint).reads)
    descriptor = Descriptor(
        stage=stage.name,
        fingerprint=fps[stage.name],
        version=stage.version,
        settings=_settings(stage),
        model_revision=stage.model_revision,
        upstream=upstream,
        reads=sorted(reads),
        schema=schema_text(stage.schema),
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
    clips = _clips(wh, plan, batch)
    batch, clips = _still_wanted(wh, plan, batch, clips)
    if not clips:
        return BatchResult(0, 0, 0, 0.0, None)
    started = time.perf_counter()
    outcomes = [
        _checked(stage, clip, made)
        for clip, made in zip(clips, _process(stage, clips), strict=True)
    ]
    seconds = time.perf_counter() - started
    id_ = commit_id(
        [plan.stage, plan.fingerprint, *batch.clip_ids, *batch.inputs, *batch.generations]
    )
    rows = _rows(stage, batch, outcomes, id_, seconds)
    path = wh.commit(plan.stage, plan.fingerprint, id_, rows)
    kinds = [type(outcome) for outcome in outcomes]
    return BatchResult(
        kinds.count(Passed), kinds.count(Rejected), kinds.count(Failed), seconds, path
    )


_setting_up = threading.Lock()
_kept: dict[str, Stage] = {}


def set_up(stage: Stage, fingerprint: str) -> Stage:
    """The stage with its models loaded.

    A copy that came from another process with a task takes over the models of the copy before it,
    so that a worker loads them once and not once a batch; only the last stage is kept, because
    models are large.
    """
    with _setting_up:
        if "_before_setup" in vars(stage):
            return stage
        travelled = vars(stage).get("_travelled", False)
        if travelled and fingerprint in _kept:
            return _kept[fingerprint]
        vars(stage)["_before_setup"] = {*vars(stage), "_travelled"}
        try:
            stage.setup()
        except BaseException:
            del vars(stage)["_before_setup"]
            raise
        if travelled:
            _kept.clear()
            _kept[fingerprint] = stage
        return stage


def _clips(wh: Warehouse, plan: Plan, batch: Batch) -> list[Clip]:
    """The batch's clips with the columns of their upstream stages."""
    found: dict[str, dict[str, Any]] = {
        row["clip_id"]: row for row in wh.clips(None, batch.clip_ids).to_pylist()
    }
    for name, fingerprint in plan.upstream.items():
        for row in wh.rows(name, fingerprint, clip_ids=batch.clip_ids).to_pylist():
            if row["clip_id"] in found:
                found[row["clip_id"]].update(row)
    return [found.get(clip_id, {"clip_id": clip_id}) for clip_id in batch.clip_ids]


def _still_wanted(
    wh: Warehouse, plan: Plan, batch: Batch, clips: list[Clip]
) -> tuple[Batch, list[Clip]]:
    """The batch without clips that were replaced since it was planned.

    Their rows would carry the wrong input.
    """
    reads = wh.descriptor(plan.stage, plan.fingerprint).reads
    kept = [
        i
        for i, clip in enumerate(clips)
        if "path" in clip and input_of(clip, reads) == batch.inputs[i]
    ]
    if len(kept) == len(batch):
        return batch, clips
    narrowed = Batch(
        clip_ids=tuple(batch.clip_ids[i] for i in kept),
        inputs=tuple(batch.inputs[i] for i in kept),
        generations=tuple(batch.generations[i] for i in kept),
        attempts=tuple(batch.attempts[i] for i in kept),
    )
    return narrowed, [clips[i] for i in kept]


def _process(stage: Stage, clips: Sequence[Clip]) -> list[Outcome]:
    """Outcomes of a batch.

    When it raises, of its clips one by one, so that only the guilty clip fails.
    """
    try:
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


def _checked(stage: Stage, clip: Clip, outcome: Outcome) -> Outcome:
    """The outcome, or a failure when the file changed meanwhile or the columns are not what the stage declared."""
    if isinstance(outcome, Failed):
        return outcome
    if "sha256" in stage.reads and _changed(clip):
        return Failed("SourceChanged", "the file was replaced after it was ingested: ingest again")
    missing = (
        set(stage.schema.names) - set(outcome.columns)
        if isinstance(outcome, Passed)
        else set[str]()
    )
    unknown = set(outcome.columns) - set(stage.schema.names)
    if missing or unknown:
        return Failed(
            "ColumnError", f"missing columns {sorted(missing)}, unknown columns {sorted(unknown)}"
        )
    for column in stage.schema:
        try:
            pa.array([outcome.columns.get(column.name)], column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
            return Failed(
                "ColumnError", f"column {column.name} is no {column.type}: {str(exc)[:500]}"
            )
    return outcome


def _changed(clip: Clip) -> bool:
    """Whether the clip's file is another one than was ingested.

    One that is gone is for the stage to miss.
    """
    try:
        stat = Path(clip["path"]).stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) != (clip["bytes"], clip["mtime_ns"])


def _rows(
    stage: Stage, batch: Batch, outcomes: Sequence[Outcome], id_: str, seconds: float
) -> pa.Table:
    """One row a clip: the spine, then the stage's columns."""
    now, count = datetime.now(UTC), len(batch)
    spine: dict[str, list[Any]] = {
        "clip_id": list(batch.clip_ids),
        "input": list(batch.inputs),
        "generation": list(batch.generations),
        "status": [type(outcome).__name__.lower() for outcome in outcomes],
        "reason": [o.reason if isinstance(o, Rejected) else None for o in outcomes],
        "error": [o.error if isinstance(o, Failed) else None for o in outcomes],
        "message": [o.message if isinstance(o, Failed) else None for o in outcomes],
        "attempt": list(batch.attempts),
        "seconds": [seconds / max(1, count)] * count,
        "committed_at": [now] * count,
        "commit": [id_] * count,
    }
    own = [None if isinstance(o, Failed) else o.columns for o in outcomes]
    columns = {f.name: [c.get(f.name) if c else None for c in own] for f in stage.schema}
    schema = pa.schema([*SPINE, *stage.schema])
    return pa.table([pa.array((spine | columns)[f.name], f.type) for f in schema], schema=schema)
