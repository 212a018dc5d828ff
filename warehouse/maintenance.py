"""Keeps the warehouse in order: release failed clips, merge commits, clear what is left, verify."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.cleanup import Compacted, Garbage, compact, gc
from warehouse.commits import commit_id
from warehouse.errors import FoleyError
from warehouse.files import read_json
from warehouse.home import RECORDS
from warehouse.rows.live import literal, query_live

if TYPE_CHECKING:
    from warehouse.home import Home


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    path: Path
    what: str


@dataclass(frozen=True)
class Maintenance:
    """What `maintain` is to do.

    `delete` removes what is left behind, which is otherwise only listed; `unused` counts results
    and pages that are out of use to it; `deep` reads every file; `retry` names stages whose failed
    clips are released, those alone whose "<error>: <message>" is like the SQL pattern `reason`.
    `dry_run` changes nothing.
    """

    delete: bool = False
    unused: bool = False
    deep: bool = False
    retry: tuple[str, ...] = ()
    reason: str | None = None
    dry_run: bool = False


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
        gc(home, not options.delete, options.unused),
        verify(home, options.deep),
    )


def verify(home: Home, deep: bool = True) -> list[Problem]:
    """Look for files that are not as they were written; `deep` checks the checksum of every page.

    Covers commits, dataset versions, feature shards and JSON records. A damaged commit does no harm
    to a run: its clips count as not done. Nothing is changed.
    """
    problems: list[Problem] = []
    for stage, fingerprint in home.commits_folders():
        listing = home.listing(stage, fingerprint)
        wrong = "is not of the size that its name promises"
        problems += [Problem(path, wrong) for path in listing.damaged]
        for commit in listing.good if deep else ():
            problems += _check(commit.path, commit.rows)
    for pattern in ("datasets/*/dataset.json", "features/*/_features.json"):
        for path in sorted(home.home.glob(pattern)):
            problems += _check_folder(path, deep)
    for path in [*home.record_files(*RECORDS), *sorted(home.home.glob("commits/*/*/stage.json"))]:
        try:
            read_json(path)
        except FoleyError as exc:
            problems.append(Problem(path, str(exc)))
    return problems


def _check_folder(path: Path, deep: bool) -> Iterator[Problem]:
    """Problems of the Parquet files that the note of a dataset or feature set lists."""
    try:
        note = read_json(path)
        shards = [
            (shard["file"], shard["rows"], shard["bytes"]) for shard in note.get("shards", ())
        ]
        files = shards or [("members.parquet", note["counts"]["clips"], None)]
    except (FoleyError, KeyError, TypeError) as exc:
        yield Problem(path, f"cannot be read: {exc}")
        return
    for name, rows, size in files:
        file = path.parent / name
        if not file.is_file():
            yield Problem(file, "is missing")
        elif size is not None and file.stat().st_size != size:
            yield Problem(file, f"is not of {size} bytes")
        elif deep:
            yield from _check(file, rows)


def _check(path: Path, rows: int) -> Iterator[Problem]:
    """Read all of a Parquet file with its page checksums."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            count = sum(batch.num_rows for batch in file.iter_batches(batch_size=256))
        if count != rows:
            yield Problem(path, f"holds {count} rows instead of {rows}")
    except FileNotFoundError:
        return
    except (OSError, pa.ArrowException) as exc:
        yield Problem(path, f"is damaged: {str(exc)[:200]}")


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
        common: dict[str, Any] = {"status": "released", "attempt": 0, "seconds": 0.0, "commit": id_}
        common["committed_at"] = datetime.now(UTC)
        rows = [row | common | {"generation": row["generation"] + 1} for row in failed]
        table = pa.Table.from_pylist(rows, schema=descriptor.all_columns)
        home.commit(stage, fingerprint, id_, table)
    return len(failed)
