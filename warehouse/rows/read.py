"""Reading live rows with all their columns, arrays included, without reading the rest of the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Descriptor, Listing
from warehouse.errors import FoleyError
from warehouse.rows.live import clips_sql, literal, live_sql, present, run_checked
from warehouse.schema import SPINE

if TYPE_CHECKING:
    import numpy as np

    from warehouse.home import Home

_OUTCOME = ["status", "reason", "error", "message", "attempt"]


def rows(
    wh: Home,
    stage: str,
    fingerprint: str,
    status: str | None = "passed",
    columns: Sequence[str] | None = None,
    clip_ids: Sequence[str] | None = None,
) -> pa.Table:
    """Live rows of a stage under a fingerprint, sorted by clip_id.

    `columns` defaults to clip_id and the stage's own, plus status, reason, error, message and
    attempt when `status` is None or not "passed". Raises FoleyError for an unknown column and for a
    stage that was never planned.
    """
    descriptor = wh.descriptor(stage, fingerprint)
    schema = descriptor.all_columns
    names = _columns(schema, stage, status, columns)
    sources = {"clips": ("clips", "source"), stage: (stage, fingerprint)}

    def work(listings: dict[str, Listing]) -> pa.Table:
        where = locate(wh, listings, descriptor, status, clip_ids)
        return gather(where, schema, names)

    return run_checked(wh, sources, work)


def _columns(
    schema: pa.Schema, stage: str, status: str | None, columns: Sequence[str] | None
) -> list[str]:
    """Names of the columns to read."""
    if columns is None:
        own = [name for name in schema.names if name not in SPINE.names]
        return ["clip_id", *([] if status == "passed" else _OUTCOME), *own]
    names = list(dict.fromkeys(["clip_id", *columns]))
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise FoleyError(
            f"stage {stage} has no column {', '.join(unknown)}; it has {', '.join(schema.names)}"
        )
    return names


def locate(
    wh: Home,
    listings: dict[str, Listing],
    descriptor: Descriptor,
    status: str | None,
    clip_ids: Sequence[str] | None = None,
) -> pa.Table:
    """Where live rows lie: clip_id, filename, file_row_number; sorted by clip_id."""
    con = wh.cursor()
    try:
        if descriptor.stage == "clips":
            live = clips_sql(con, listings["clips"], [], places=True)
        else:
            con.register("present", present(wh, listings["clips"], descriptor.reads))
            live = live_sql(con, listings[descriptor.stage], descriptor, [], places=True)
        chosen = ""
        if clip_ids is not None:
            con.register("wanted", pa.table({"clip_id": pa.array(list(clip_ids), pa.string())}))
            chosen = "semi join wanted using (clip_id)"
        where = f"where status = {literal(status)}" if status else ""
        sql = f"select clip_id, filename, file_row_number from {live} {chosen} {where} order by clip_id"
        return con.sql(sql).to_arrow_table()
    finally:
        con.close()


def gather(where: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Columns of located rows, in the order of `where`.

    Only row groups that hold a wanted row are read.
    """
    import numpy as np

    wanted = pa.schema([schema.field(name) for name in names])
    if not where.num_rows:
        return wanted.empty_table()
    files = where["filename"].combine_chunks().dictionary_encode()
    codes = files.indices.to_numpy()
    numbers = where["file_row_number"].to_numpy()
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
    import numpy as np

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.unique(np.searchsorted(starts, numbers, side="right") - 1)
        parts: list[pa.Table] = []
        for group in groups:
            inside = (
                numbers[(numbers >= starts[group]) & (numbers < starts[group + 1])] - starts[group]
            )
            table = file.read_row_group(int(group), columns=wanted.names)
            parts.append(table if len(inside) == table.num_rows else table.take(pa.array(inside)))
    return pa.concat_tables(parts).select(wanted.names).cast(wanted)
