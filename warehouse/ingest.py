"""Bringing clips in: look at every file, hash the new and the changed ones, commit what differs."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from warehouse.commits import commit_id
from warehouse.errors import FoleyError
from warehouse.rows.live import clip_hash
from warehouse.rows.read import rows
from warehouse.schema import CLIPS, SPINE

if TYPE_CHECKING:
    from warehouse.home import Home

_PIECE = 4096
_GIVEN = ("path", "source", "source_video", "url", "label", "prompt", "split", "truth")
_SPLITS = (None, "train", "val", "test")


@dataclass(frozen=True)
class IngestResult:
    """How many clips were new, changed and as before.

    `failed` of all these have a file that cannot be read.
    """

    new: int
    changed: int
    unchanged: int
    failed: int


def ingest(
    wh: Home, clips: pa.Table, progress: Callable[[int, int], None] | None = None
) -> IngestResult:
    """Bring in clips: a row is committed for every new clip and for every one whose file or description changed.

    `clips` has clip_id, path and source, and may have source_video (default: the clip_id), url,
    label, prompt, split (train, val or test) and truth. A file of unchanged size and modification
    time is not read again. A file that cannot be read gives a failed row. Commits every 4,096
    clips, so that a killed ingest goes on where it was. Raises FoleyError when a needed column is
    absent, a clip_id comes twice, or a split has an unknown name.
    """
    given = _described(clips)
    known = {row["clip_id"]: row for row in _known(wh, list(given))}
    counts = {"new": 0, "changed": 0, "unchanged": 0, "failed": 0}
    pending: list[dict[str, Any]] = []
    for done, (clip_id, clip) in enumerate(given.items(), 1):
        old = known.get(clip_id)
        row = _look(clip, old)
        kind = "new" if old is None else "unchanged" if _same(row, old) else "changed"
        counts[kind] += 1
        counts["failed"] += row["status"] == "failed"
        if kind != "unchanged":
            row["generation"] = 0 if old is None else old["generation"] + 1
            pending.append(row)
        if len(pending) == _PIECE:
            _commit(wh, pending)
            pending = []
        if progress:
            progress(done, len(given))
    if pending:
        _commit(wh, pending)
    return IngestResult(**counts)


def _described(clips: pa.Table) -> dict[str, dict[str, Any]]:
    """Clips by id with every given column, checked."""
    for name in ("clip_id", "path", "source"):
        if name not in clips.column_names:
            raise FoleyError(f"clips need the columns clip_id, path and source: {name} is missing")
    found: dict[str, dict[str, Any]] = {}
    for row in clips.to_pylist():
        clip_id = row["clip_id"]
        if not clip_id or clip_id in found:
            raise FoleyError(
                f"clip_id {clip_id!r} is empty or comes twice: every clip needs an id of its own"
            )
        if row.get("split") not in _SPLITS:
            raise FoleyError(
                f"clip {clip_id} has split {row['split']!r}: use train, val, test or nothing"
            )
        clip = {name: row.get(name) for name in _GIVEN}
        clip["source_video"] = clip["source_video"] or clip_id
        clip["path"] = str(Path(str(row["path"])).absolute())
        found[clip_id] = {"clip_id": clip_id, **clip}
    return found


def _known(wh: Home, clip_ids: list[str]) -> list[dict[str, Any]]:
    columns = [*_GIVEN, "generation", "status", "error", "message", "sha256", "bytes", "mtime_ns"]
    return rows(wh, "clips", "source", None, columns, clip_ids).to_pylist()


def _look(clip: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The clip with the facts of its file, or with the error that reading it gave."""
    row: dict[str, Any] = {**clip, "status": "passed", "error": None, "message": None}
    row |= {"sha256": None, "bytes": None, "mtime_ns": None}
    try:
        stat = os.stat(clip["path"])
        row |= {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        same = (
            old and old["sha256"] and all(row[k] == old[k] for k in ("path", "bytes", "mtime_ns"))
        )
        row["sha256"] = old["sha256"] if same and old else _sha256(clip["path"])
    except OSError as exc:
        row |= {
            "status": "failed",
            "error": type(exc).__name__,
            "message": exc.strerror or str(exc),
        }
    return row


def _sha256(path: str) -> str:
    if not S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")  # opening a pipe would wait for ever
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _same(row: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    return all(
        row[k] == old[k]
        for k in (*_GIVEN, "status", "error", "message", "sha256", "bytes", "mtime_ns")
    )


def _commit(wh: Home, found: list[dict[str, Any]]) -> None:
    """Commit clip rows, sorted by clip_id."""
    found = sorted(found, key=lambda row: row["clip_id"])
    id_ = commit_id(repr(sorted(row.items(), key=lambda item: item[0])) for row in found)
    common: dict[str, Any] = {"reason": None, "attempt": 1, "seconds": 0.0, "commit": id_}
    common["committed_at"] = datetime.now(UTC)
    table = pa.Table.from_pylist(
        [{**row, **common, "input": clip_hash(row["clip_id"])} for row in found],
        schema=pa.schema([*SPINE, *CLIPS]),
    )
    wh.commit("clips", "source", id_, table)
