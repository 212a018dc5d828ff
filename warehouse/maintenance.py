"""Keeps the warehouse in order: release failed clips, merge commits, clear what is left, verify."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.cleanup import Compacted, Garbage, compact, gc
from warehouse.commits import commit_id, parse, reads_as_written
from warehouse.datasets.check import Problem, check_folder, check_records
from warehouse.errors import FoleyError
from warehouse.home import RECORDS
from warehouse.rows.damage import is_damaged, set_aside
from warehouse.rows.live import literal, query_live

if TYPE_CHECKING:
    from warehouse.home import Home


@dataclass(frozen=True)
class Maintenance:
    """What `maintain` is to do.

    `delete` removes what is left behind, which is otherwise only listed; `unused` counts results
    and pages that are out of use to it; `deep` reads every file; `retry` names stages whose failed
    clips are released, those alone whose "<error>: <message>" is like the SQL pattern `reason`.
    `dry_run` changes nothing. `keep` is how many versions of each dataset are kept that nothing
    refers to, None for all.
    """

    delete: bool = False
    unused: bool = False
    deep: bool = False
    retry: tuple[str, ...] = ()
    reason: str | None = None
    dry_run: bool = False
    keep: int | None = None


@dataclass(frozen=True)
class Maintained:
    """What `maintain` did and saw: clips released by stage, commits merged, garbage, damage."""

    released: dict[str, int]
    merged: list[Compacted]
    garbage: list[Garbage]
    problems: list[Problem]


def maintain(home: Home, options: Maintenance) -> Maintained:
    """Release failed clips, merge small commits, list or delete what is left behind, and verify.

    Raises FoleyError for options that contradict each other and for a stage that was never planned.
    """
    if options.dry_run and (options.delete or options.retry):
        raise FoleyError("a dry run changes nothing: leave out delete and retry")
    if options.reason and not options.retry:
        raise FoleyError("a reason chooses among the failures of a stage: name one to retry")
    return Maintained(
        {stage: release(home, stage, options.reason) for stage in options.retry},
        [] if options.dry_run else compact(home),
        gc(home, not options.delete, options.unused, options.keep),
        verify(home, options.deep),
    )


def verify(home: Home, deep: bool = True) -> list[Problem]:
    """Look for files that are not as they were written; `deep` reads all of them.

    Covers commits, dataset versions, feature shards, bridges, takes of the studio, and JSON
    records. Nothing is changed.
    """
    problems: list[Problem] = []
    for stage, fingerprint in home.commits_folders():
        listing = home.listing(stage, fingerprint)
        wrong = "is not of the size that its name promises"
        problems += [Problem(path, wrong) for path in listing.damaged]
        for commit in listing.good if deep else ():
            if is_damaged(commit):
                problems.append(Problem(commit.path, "is damaged"))
    for pattern in ("datasets/*/dataset.json", "features/*/_features.json"):
        for path in sorted(home.home.glob(pattern)):
            problems += check_folder(path, deep)
    problems += _stage_notes(home)
    for pattern in ("datasets/*.json", "studio/**/*.json"):
        problems += check_records(sorted(home.home.glob(pattern)), deep)
    return problems + list(check_records(home.record_files(*RECORDS), deep))


def _stage_notes(home: Home) -> Iterator[Problem]:
    """Problems of what says how stages were planned."""
    for path in sorted(home.home.glob("commits/*/CURRENT")):
        current = home.current(path.parent.name) or ""
        if not current or not (path.parent / current).is_dir():
            yield Problem(path, "names no plan of the stage: run it again")
    for path in sorted(home.home.glob("commits/*/*/stage.json")):
        try:
            home.descriptor(path.parts[-3], path.parts[-2])
        except FoleyError as exc:
            yield Problem(path, str(exc))


def repair(home: Home) -> tuple[list[Problem], list[Problem]]:
    """Verify all, and set aside in HOME/damaged what can be made again.

    These are commits, whose clips are to do again, notes of stages, and feature sets. A commit that
    was set aside and reads as it was written now, from another disk say, is taken back.

    Returns what was set aside or taken back, and what only a person can mend.
    """
    done, left = list(_take_back(home)), list[Problem]()
    for problem in verify(home):
        kind, id, *_ = problem.path.relative_to(home.home).parts
        if kind not in ("commits", "features"):
            left.append(problem)
            continue
        done.append(Problem(problem.path, f"{problem.what}: set aside"))
        whole = home.home / kind / id if kind == "features" else problem.path
        set_aside(home, whole)
    return done, left


def _take_back(home: Home) -> Iterator[Problem]:
    aside = home.home / "damaged"
    for path in sorted(aside.glob("commits/*/*/*.parquet")):
        commit, place = parse(path), home.home / path.relative_to(aside)
        if commit is None or place.exists() or not place.parent.is_dir():
            continue
        if path.stat().st_size == commit.bytes and reads_as_written(commit, from_disk=True):
            os.replace(path, place)
            yield Problem(place, "reads as it was written again: taken back")


def release(home: Home, stage: str, reason_like: str | None = None) -> int:
    """Give failed clips of a stage all their attempts again; returns how many.

    `reason_like` is an SQL LIKE pattern for "<error>: <message>". Raises FoleyError for a stage
    that was never planned.
    """
    fingerprint = home.current(stage)
    if fingerprint is None:
        stages = ", ".join(home.stages()) or "none"
        raise FoleyError(f"no stage {stage!r} was planned yet; there are: {stages}")
    descriptor = home.descriptor(stage, fingerprint)
    like = f"and concat(error, ': ', message) like {literal(reason_like)}" if reason_like else ""

    def failures(live: str) -> str:
        return f"""
            select clip_id, input, generation from {live}
            where status = 'failed' {like} order by clip_id"""

    failed = query_live(home, descriptor, ["generation", "error", "message"], failures).to_pylist()
    if failed:
        names = (f"{row['clip_id']} {row['generation']}" for row in failed)
        id_ = commit_id(["release", stage, fingerprint, *names])
        common: dict[str, object] = {
            "status": "released",
            "attempt": 0,
            "seconds": 0.0,
            "commit": id_,
        }
        common["committed_at"] = datetime.now(UTC)
        rows = [row | common | {"generation": row["generation"] + 1} for row in failed]
        table = pa.Table.from_pylist(rows, schema=descriptor.all_columns)
        home.commit(stage, fingerprint, id_, table)
    return len(failed)
