"""Takes in clips: looks at every file, hashes new and changed ones, commits what differs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from warehouse.commits import commit_id
from warehouse.errors import FoleyError
from warehouse.files import Json, file_sha256
from warehouse.rows.live import Listings, clip_hash, clips_sql, quote, run_checked, sources
from warehouse.schema import CLIPS, SPINE

if TYPE_CHECKING:
    from warehouse.home import Home

_CLIPS_PER_COMMIT = 4096
_GIVEN = ("path", "source", "source_video", "url", "label", "prompt", "split", "truth")
_FOUND_OUT = ("status", "error", "message", "sha256", "bytes", "mtime_ns")
_SPLITS = ("train", "val", "test")

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them


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
    known = _known(home, given)
    differs = np.flatnonzero(~_as_before(given["path"], known))
    counts = {"new": 0, "changed": 0, "unchanged": len(given) - len(differs), "failed": 0}
    done = counts["unchanged"]
    for part in np.split(differs, range(_CLIPS_PER_COMMIT, len(differs), _CLIPS_PER_COMMIT)):
        both = (table.take(pa.array(part)).to_pylist() for table in (given, known))
        pending: list[Json] = []
        for clip, old in zip(*both, strict=True):
            row = _look(clip, old)
            counts["failed"] += row["status"] == "failed"
            if old["same"] and all(row[name] == old[name] for name in _FOUND_OUT):
                counts["unchanged"] += 1
            else:
                new = old["generation"] is None
                counts["new" if new else "changed"] += 1
                pending.append(row | {"generation": 0 if new else old["generation"] + 1})
        if pending:
            _commit(home, pending)
        done += len(part)
        if progress:
            progress(done, len(given))
    return IngestResult(**counts)


def _described(clips: pa.Table) -> pa.Table:
    """The clips with every given column, checked."""
    for name in ("clip_id", "path", "source"):
        if name not in clips.column_names:
            raise FoleyError(f"clips need the columns clip_id, path and source: {name} is missing")
    count = len(clips)
    columns = {
        name: clips[name].cast(pa.string()) if name in clips.column_names else pa.nulls(count)
        for name in ("clip_id", *_GIVEN)
    }
    table = pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))
    times = table.group_by("clip_id").aggregate([("clip_id", "count")])
    wrong = times.filter((pc.field("clip_id_count") != 1) | (pc.field("clip_id") == ""))
    if len(wrong):
        advice = "every clip needs an id of its own"
        raise FoleyError(f"clip_id {wrong['clip_id'][0]} is empty or comes twice: {advice}")
    known = pc.or_kleene(pc.is_null(table["split"]), pc.is_in(table["split"], pa.array(_SPLITS)))
    for row in table.filter(pc.invert(known)).slice(0, 1).to_pylist():
        advice = "use train, val, test or nothing"
        raise FoleyError(f"clip {row['clip_id']} has split {row['split']!r}: {advice}")
    video = pc.if_else(pc.equal(table["source_video"], ""), None, table["source_video"])
    table = table.set_column(3, "source_video", pc.coalesce(video, table["clip_id"]))
    odd = pc.invert(pc.match_substring_regex(table["path"], r"^(/[^/]*[^/.][^/]*)+$")).fill_null(
        True
    )
    if not pc.any(odd).as_py():
        return table
    paths = [str(Path(str(path)).absolute()) for path in table["path"].to_pylist()]
    return table.set_column(1, "path", pa.array(paths, pa.string()))


def _known(home: Home, given: pa.Table) -> pa.Table:
    """What is known of each given clip, in their order.

    `same` is whether its description is as before, `same_path` that of its path; generation and the
    facts of its file are null where the clip is new.
    """
    numbered = given.append_column("place", pa.array(range(len(given)), pa.int64()))
    alike = " and ".join(f"k.{quote(name)} is not distinct from g.{quote(name)}" for name in _GIVEN)
    facts = ", ".join(f"k.{quote(name)}" for name in (*_FOUND_OUT, "generation"))

    def work(listings: Listings) -> pa.Table:
        with home.cursor() as con:
            con.register("given", numbered)
            columns = [*_GIVEN, *_FOUND_OUT, "generation"]
            clips = clips_sql(con, listings["clips"], columns)
            return con.sql(f"""
                select {facts}, k.path = g.path as same_path, coalesce({alike}, false) as same
                from given g left join {clips} k using (clip_id) order by place""").to_arrow_table()

    return run_checked(home, sources(), work)


def _as_before(paths: pa.ChunkedArray, known: pa.Table) -> np.ndarray:
    """Which clips are known, with a file of the same size and time: bool [count]."""
    bytes_, times = np.full(len(paths), -1), np.full(len(paths), -1)
    for begin in range(0, len(paths), _CLIPS_PER_COMMIT):
        for place, path in enumerate(paths.slice(begin, _CLIPS_PER_COMMIT).to_pylist(), begin):
            with suppress(OSError):
                stat = os.stat(path)
                bytes_[place], times[place] = stat.st_size, stat.st_mtime_ns
    facts = pc.and_(known["same"], pc.is_valid(known["sha256"])).to_numpy()
    same = [
        known[n].fill_null(-2).to_numpy() == v for n, v in (("bytes", bytes_), ("mtime_ns", times))
    ]
    return facts & same[0] & same[1]


def _look(clip: Json, old: Json) -> dict[str, object]:
    """The clip with the facts of its file, or with the error that reading it gave."""
    row: dict[str, object] = {**clip, **dict.fromkeys(_FOUND_OUT), "status": "passed"}
    try:
        stat = os.stat(clip["path"])
        row |= {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        same_file = old["same_path"] and all(row[k] == old[k] for k in ("bytes", "mtime_ns"))
        if old["sha256"] and same_file:
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


def _commit(home: Home, clips: list[Json]) -> None:
    """Commit clip rows, sorted by clip_id."""
    clips = sorted(clips, key=lambda row: row["clip_id"])
    id_ = commit_id(repr(sorted(row.items(), key=lambda item: item[0])) for row in clips)
    common: dict[str, object] = {"reason": None, "attempt": 1, "seconds": 0.0, "commit": id_}
    common["committed_at"] = datetime.now(UTC)
    table = pa.Table.from_pylist(
        [{**row, **common, "input": clip_hash(row["clip_id"])} for row in clips],
        schema=pa.schema([*SPINE, *CLIPS]),
    )
    home.commit("clips", "source", id_, table)
