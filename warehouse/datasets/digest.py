"""Hashes of results: two homes with the same one hold the same clips, scores, features, members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.commits import CLIPS_DESCRIPTOR
from warehouse.datasets.versions import find_dataset, list_datasets
from warehouse.files import Json
from warehouse.rows.live import literal, query_live, quote
from warehouse.schema import CLIPS, SPINE

if TYPE_CHECKING:
    from warehouse.home import Home

#: What of a row is a result. The rest is where, when and by whom it was made, or tells of that.
_OUTCOME = ("clip_id", "status", "reason", "error")
_PLACES = ("path", "mtime_ns")


def digests(home: Home) -> list[Json]:
    """`table`, number of `rows` and `md5` of the clips, stages and newest datasets; then all.

    Arrays count. What does not: the order of rows, how they lie in files, times, paths, attempts.
    """
    found: list[dict[str, object]] = []
    own = [name for name in CLIPS.names if name not in (*SPINE.names, *_PLACES)]
    descriptors = [(CLIPS_DESCRIPTOR, ["clip_id", "status", "error", *own])]
    for descriptor in home.stages().values():
        stages = [name for name in descriptor.columns.names if name not in _OUTCOME]
        descriptors.append((descriptor, [*_OUTCOME, *stages]))
    for descriptor, names in descriptors:
        schema = CLIPS if descriptor is CLIPS_DESCRIPTOR else descriptor.all_columns
        rows = query_live(home, descriptor, names, lambda live, n=names, s=schema: _sql(live, n, s))
        found.append({"table": descriptor.stage, **rows.to_pylist()[0]})
    for name in sorted({version.name for version in list_datasets(home)}):
        dataset = find_dataset(home, name)
        members = dataset.members(kept=None)
        with home.cursor() as con:
            con.register("members", members)
            rows = con.sql(_sql("members", members.column_names, members.schema)).to_arrow_table()
        found.append({"table": f"dataset {dataset.name}", **rows.to_pylist()[0]})
    with home.cursor() as con:
        con.register("found", pa.Table.from_pylist(found))
        total = con.sql(_sql("found", ["table", "rows", "md5"], pa.schema([]))).to_arrow_table()
    return [*found, {"table": "all", **total.to_pylist()[0]}]


def _sql(rows: str, columns: Sequence[str], schema: pa.Schema) -> str:
    """SQL of the number of rows, and of a hash of the sorted hashes of each."""
    blobs = {field.name for field in schema if pa.types.is_binary(field.type)}
    parts = [
        f"{literal(name)}: {f'md5({quote(name)})' if name in blobs else quote(name)}"
        for name in columns
    ]
    each = f"select md5(to_json({{{', '.join(parts)}}})::varchar) as one from {rows}"
    return f"""
        select count(*) as rows, md5(coalesce(string_agg(one, '' order by one), '')) as md5
        from ({each})"""
