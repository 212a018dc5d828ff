"""Reads live rows with all their columns, arrays included, and nothing else of the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Descriptor
from warehouse.errors import FoleyError
from warehouse.rows.damage import DamagedCommitError
from warehouse.rows.live import PLACE, Listings, literal, live_sql, run_checked, sources
from warehouse.schema import SPINE

if TYPE_CHECKING:
    import numpy as np

    from warehouse.home import Home

_OUTCOME = ["status", "reason", "error", "message", "attempt"]


@dataclass(frozen=True)
class Selection:
    """Which rows of a stage to read, and which of their columns.

    None stands for rows of any status, for all clips, and for clip_id and the stage's own columns
    (with status, reason, error, message and attempt unless `status` is "passed").
    """

    status: str | None = "passed"
    columns: Sequence[str] | None = None
    clip_ids: Sequence[str] | None = None


PASSED = Selection()


def rows(home: Home, stage: str, fingerprint: str, selection: Selection = PASSED) -> pa.Table:
    """Live rows of a stage under a fingerprint, sorted by clip_id.

    Raises FoleyError for an unknown column and for a stage that was never planned.
    """
    descriptor = home.descriptor(stage, fingerprint)
    names = _columns(descriptor, selection)

    def work(listings: Listings) -> pa.Table:
        places = locate(home, listings, descriptor, selection)
        return gather(places, descriptor.all_columns, names)

    return run_checked(home, sources(descriptor), work)


def _columns(descriptor: Descriptor, selection: Selection) -> list[str]:
    """Names of the columns to read."""
    every = descriptor.all_columns.names
    if selection.columns is None:
        own = [name for name in every if name not in SPINE.names]
        return ["clip_id", *([] if selection.status == "passed" else _OUTCOME), *own]
    names = list(dict.fromkeys(["clip_id", *selection.columns]))
    unknown = ", ".join(name for name in names if name not in every)
    if unknown:
        raise FoleyError(
            f"stage {descriptor.stage} has no column {unknown}; it has {', '.join(every)}"
        )
    return names


def locate(
    home: Home, listings: Listings, descriptor: Descriptor, selection: Selection
) -> pa.Table:
    """Where live rows lie: clip_id, filename, file_row_number; sorted by clip_id."""
    with home.cursor() as con:
        live = live_sql(home, con, listings, descriptor, PLACE)
        wanted = ""
        if selection.clip_ids is not None:
            con.register("wanted", id_table(selection.clip_ids))
            wanted = "semi join wanted using (clip_id)"
        where = f"where status = {literal(selection.status)}" if selection.status else ""
        sql = f"""
            select clip_id, filename, file_row_number from {live} {wanted} {where}
            order by clip_id"""
        return con.sql(sql).to_arrow_table()


def id_table(clip_ids: Sequence[str]) -> pa.Table:
    """Ids of clips as a table that a query can join."""
    return pa.table({"clip_id": pa.array(list(clip_ids), pa.string())})


def gather(places: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Columns of located rows, in the order of `places`.

    Only row groups that hold a wanted row are read, with the checksums of their pages. Raises
    DamagedCommitError for one that is not as it was written.
    """
    import numpy as np

    wanted = pa.schema([schema.field(name) for name in names])
    if not places.num_rows:
        return wanted.empty_table()
    files = places["filename"].combine_chunks().dictionary_encode()
    codes = files.indices.to_numpy()
    numbers = places["file_row_number"].to_numpy()
    order = np.lexsort((numbers, codes))
    bounds = np.flatnonzero(np.diff(codes[order])) + 1
    parts = [
        _gather_file(str(files.dictionary[codes[part[0]]]), numbers[part], wanted)
        for part in np.split(order, bounds)
    ]
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(parts).take(pa.array(back))


def _gather_file(path: str, numbers: np.ndarray, wanted: pa.Schema) -> pa.Table:
    """Rows of one file by their (sorted) numbers."""
    try:
        return _checked_rows(path, numbers, wanted)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as exc:
        raise DamagedCommitError(path) from exc


def _checked_rows(path: str, numbers: np.ndarray, wanted: pa.Schema) -> pa.Table:
    import numpy as np

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        parts: list[pa.Table] = []
        for group in np.unique(np.searchsorted(starts, numbers, side="right") - 1):
            begin, end = starts[group], starts[group + 1]
            inside = numbers[(numbers >= begin) & (numbers < end)] - begin
            table = file.read_row_group(int(group), columns=wanted.names)
            parts.append(table if len(inside) == table.num_rows else table.take(pa.array(inside)))
    return pa.concat_tables(parts).select(wanted.names).cast(wanted)
