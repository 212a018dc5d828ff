"""Takes in clips: looks at every file, hashes new and changed ones, commits what differs."""

from __future__ import annotations

import errno
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
from warehouse.files import file_sha256
from warehouse.rows.live import clip_hash
from warehouse.rows.read import Selection, rows
from warehouse.schema import CLIPS, SPINE

if TYPE_CHECKING:
    from warehouse.home import Home

_CLIPS_PER_COMMIT = 4096
_GIVEN = ("path", "source", "source_video", "url", "label", "prompt", "split", "truth")
_FOUND_OUT = ("status", "error", "message", "sha256", "bytes", "mtime_ns")
_SPLITS = (None, "train", "val", "test")


@dataclass(frozen=True)
class IngestResult:
    """How many clips were new, changed and as before; `failed` of all these cannot be read."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: int = 0


def ingest(
    home: Home, clips: pa.Table, progress: Callable[[int, int], None] | None = None
) -> IngestResult:
    """Commit a row for every clip that is new or whose file or description changed.

    A file of unchanged size and modification time is not read again. One that cannot be read gives
    a failed row. A killed ingest goes on where it was.

    Args:
        home: where the rows go.
        clips: clip_id, path and source; optionally source_video (default: the clip_id), url, label,
            prompt, split (train, val or test) and truth.
        progress: called with the clips done and their number.

    Raises FoleyError when a needed column is absent, a clip_id comes twice, or a split is unknown.
    """
    given = _described(clips)
    names = Selection(None, [*_GIVEN, *_FOUND_OUT, "generation"], list(given))
    before = {row["clip_id"]: row for row in rows(home, "clips", "source", names).to_pylist()}
    counts = {"new": 0, "changed": 0, "unchanged": 0, "failed": 0}
    pending: list[dict[str, Any]] = []
    for done, (clip_id, clip) in enumerate(given.items(), 1):
        old = before.get(clip_id)
        row = _look(clip, old)
        counts["failed"] += row["status"] == "failed"
        if old is not None and all(row[name] == old[name] for name in (*_GIVEN, *_FOUND_OUT)):
            counts["unchanged"] += 1
        else:
            counts["new" if old is None else "changed"] += 1
            pending.append(row | {"generation": 0 if old is None else old["generation"] + 1})
        if len(pending) == _CLIPS_PER_COMMIT or (pending and done == len(given)):
            _commit(home, pending)
            pending = []
        if progress:
            progress(done, len(given))
    return IngestResult(**counts)


def _described(clips: pa.Table) -> dict[str, dict[str, Any]]:
    """Clips by id with every given column, checked."""
    for name in ("clip_id", "path", "source"):
        if name not in clips.column_names:
            raise FoleyError(f"clips need the columns clip_id, path and source: {name} is missing")
    described: dict[str, dict[str, Any]] = {}
    for row in clips.to_pylist():
        clip_id, split = row["clip_id"], row.get("split")
        if not clip_id or clip_id in described:
            advice = "every clip needs an id of its own"
            raise FoleyError(f"clip_id {clip_id!r} is empty or comes twice: {advice}")
        if split not in _SPLITS:
            raise FoleyError(f"clip {clip_id} has split {split!r}: use train, val, test or nothing")
        clip = {"clip_id": clip_id, **{name: row.get(name) for name in _GIVEN}}
        clip["source_video"] = clip["source_video"] or clip_id
        clip["path"] = str(Path(str(row["path"])).absolute())
        described[clip_id] = clip
    return described


def _look(clip: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The clip with the facts of its file, or with the error that reading it gave."""
    row: dict[str, Any] = {**clip, **dict.fromkeys(_FOUND_OUT), "status": "passed"}
    try:
        stat = os.stat(clip["path"])
        row |= {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if old and old["sha256"] and all(row[k] == old[k] for k in ("path", "bytes", "mtime_ns")):
            row["sha256"] = old["sha256"]
        else:
            row["sha256"] = _hash(clip["path"], stat)
    except OSError as exc:
        message = exc.strerror or str(exc)
        row |= {"status": "failed", "error": type(exc).__name__, "message": message}
    return row


def _hash(path: str, stat: os.stat_result) -> str:
    if not S_ISREG(stat.st_mode):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file")
    return file_sha256(path)


def _commit(home: Home, clips: list[dict[str, Any]]) -> None:
    """Commit clip rows, sorted by clip_id."""
    clips = sorted(clips, key=lambda row: row["clip_id"])
    id_ = commit_id(repr(sorted(row.items(), key=lambda item: item[0])) for row in clips)
    common: dict[str, Any] = {"reason": None, "attempt": 1, "seconds": 0.0, "commit": id_}
    common["committed_at"] = datetime.now(UTC)
    table = pa.Table.from_pylist(
        [{**row, **common, "input": clip_hash(row["clip_id"])} for row in clips],
        schema=pa.schema([*SPINE, *CLIPS]),
    )
    home.commit("clips", "source", id_, table)
