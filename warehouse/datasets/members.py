"""The members of a dataset version, in parts that versions share.

A version holds hard links to parts of the version before it and one part of what is new: rows that
came or changed, and, with null in `kept`, clips that are gone. A part that is not much larger than
what is new is written anew with it, so that there are few: about the logarithm of the versions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import share_file, write_file
from warehouse.schema import field as column

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

MEMBERS = pa.schema(
    [
        column("clip_id", pa.string(), "id of the clip"),
        column("source_video", pa.string(), "video that the clip was cut from"),
        column(
            "sha256",
            pa.string(),
            "hash of the file's content when it was selected, null when dropped",
        ),
        column("kept", pa.bool_(), "whether the clip is in the dataset"),
        column(
            "reason",
            pa.string(),
            "why it was dropped: the first stage or gate that it did not pass",
        ),
        column(
            "split",
            pa.string(),
            "train, val or test, the same for all clips of a source video; null when dropped",
        ),
        column("sft", pa.bool_(), "in the high-quality subset for fine-tuning"),
        column(
            "ablation", pa.bool_(), "in the fixed-seed share of the training split for ablations"
        ),
    ]
)
SUBSETS = ("sft", "ablation")
_LARGER = 2
_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def read_members(files: Sequence[Path]) -> pa.Table:
    """All rows of a version, sorted by clip_id. Raises FoleyError where a part is damaged."""
    table = _together([_part(file) for file in files])
    return table.filter(pc.is_valid(table["kept"]))


def _part(file: Path) -> pa.Table:
    with clear_os_errors(f"read {file}"):
        try:
            return pq.read_table(file, page_checksum_verification=True)
        except (FileNotFoundError, PermissionError, MemoryError):
            raise
        except (OSError, ValueError, pa.ArrowException) as exc:
            advice = "the same selection again writes it anew"
            raise FoleyError(f"members {file} are damaged: {advice}") from exc


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several parts, of a clip the last one, sorted by clip_id."""
    table = tables[0]
    for later in tables[1:]:
        stays = pc.invert(pc.is_in(table["clip_id"], later["clip_id"].combine_chunks()))
        table = pa.concat_tables([table.filter(stays), later])
    return table if len(tables) == 1 else table.sort_by("clip_id")


def parts_of(
    parts: Sequence[Path], before: pa.Table | None, now: pa.Table
) -> tuple[list[Path], pa.Table]:
    """Files that a version shares with the one before, whose they are, and rows of its own part.

    `before` are that one's members, if there is one.
    """
    if before is None:
        return [], now
    files, new = list(parts), _changes(before, now)
    while files:
        if pq.read_metadata(files[-1]).num_rows > _LARGER * new.num_rows:
            return files, new
        new = _together([_part(files.pop()), new])
    return [], now


def _changes(before: pa.Table, now: pa.Table) -> pa.Table:
    """Rows that came or changed, and a row without values for every clip that is gone."""
    then = before.take(pc.index_in(now["clip_id"], before["clip_id"].combine_chunks()))
    same = pa.chunked_array([np.ones(len(now), bool)])
    for name in now.column_names:
        equal = pc.fill_null(pc.equal(now[name], then[name]), False)
        both_null = pc.and_(pc.is_null(now[name]), pc.is_null(then[name]))
        same = pc.and_(same, pc.or_(equal, both_null))
    gone = pc.invert(pc.is_in(before["clip_id"], now["clip_id"].combine_chunks()))
    without = before.filter(gone).select(["clip_id"])
    changes = [now.filter(pc.invert(same)), without]
    return pa.concat_tables(changes, promote_options="default").sort_by("clip_id")


def write_parts(folder: Path, shared: Sequence[Path], own: pa.Table) -> list[dict[str, object]]:
    """Fill the folder of a version; returns what is noted of every part: file, rows and bytes."""
    parts: list[dict[str, object]] = []
    for number, file in enumerate([*shared, None]):
        path = folder / (f"changes-{number:02d}.parquet" if number else "members.parquet")
        if file is not None:
            share_file(file, path)
        else:
            write_file(folder, lambda handle: pq.write_table(own, handle, **_OPTIONS), path)
        rows = pq.read_metadata(path).num_rows
        parts.append({"file": path.name, "rows": rows, "bytes": path.stat().st_size})
    return parts


def counts(members: pa.Table) -> dict[str, int]:
    """How many clips there are, are kept and dropped, and are in each split and subset."""
    chosen = members.filter(members["kept"])
    found = {"clips": members.num_rows, "kept": chosen.num_rows}
    found["dropped"] = members.num_rows - chosen.num_rows
    for split in ("train", "val", "test"):
        found[split] = pc.sum(pc.equal(chosen["split"], split)).as_py() or 0
    for subset in SUBSETS:
        found[subset] = pc.sum(chosen[subset]).as_py() or 0
    return found


def diff(last: pa.Table | None, members: pa.Table) -> dict[str, int]:
    """How many clips came in, went out and moved to another split since the version before."""
    now = members.filter(members["kept"]).select(["clip_id", "split"])
    if last is None:
        return {"added": now.num_rows, "removed": 0, "moved": 0}
    then = last.filter(last["kept"]).select(["clip_id", "split"])
    then = then.rename_columns(["clip_id", "before"])
    both = now.join(then, "clip_id", join_type="inner")
    return {
        "added": now.num_rows - both.num_rows,
        "removed": then.num_rows - both.num_rows,
        "moved": pc.sum(pc.not_equal(both["split"], both["before"])).as_py() or 0,
    }
