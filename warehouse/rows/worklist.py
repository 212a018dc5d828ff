"""Work to do is a query: clips that passed every upstream, minus clips with a row that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.commits import Descriptor, Listing
from warehouse.rows.live import present, present_input, run_checked, scan, value
from warehouse.schema import MAX_ATTEMPTS

if TYPE_CHECKING:
    import duckdb

    from warehouse.home import Home

_NOTHING = pa.schema(
    [
        ("clip_id", pa.string()),
        ("input", pa.uint64()),
        ("generation", pa.int32()),
        ("attempt", pa.int32()),
    ]
)


@dataclass(frozen=True)
class WorkList:
    """Clips that a stage has yet to do (clip_id, input, generation, attempt.

    Sorted) and counts of the others.
    """

    todo: pa.Table
    clips: int
    ready: int
    quarantined: int
    damaged: tuple[str, ...]


def work_list(
    wh: Home,
    descriptor: Descriptor,
    clip_ids: Sequence[str] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
) -> WorkList:
    """Clips that passed every upstream, minus those with a verified passed or rejected row for their present input."""
    known = {
        name: wh.descriptor(name, fingerprint) for name, fingerprint in descriptor.upstream.items()
    }

    def work(listings: dict[str, Listing]) -> WorkList:
        con = wh.cursor()
        try:
            con.register("present", present(wh, listings["clips"], descriptor.reads))
            return _work_list(con, listings, descriptor, known, clip_ids, max_attempts)
        finally:
            con.execute("drop table if exists ready; drop table if exists open")
            con.close()

    stages = {name: (name, fingerprint) for name, fingerprint in descriptor.upstream.items()}
    own = {descriptor.stage: (descriptor.stage, descriptor.fingerprint)}
    return run_checked(wh, {"clips": ("clips", "source"), **stages, **own}, work)


def _work_list(
    con: duckdb.DuckDBPyConnection,
    listings: Mapping[str, Listing],
    descriptor: Descriptor,
    upstreams: Mapping[str, Descriptor],
    clip_ids: Sequence[str] | None,
    max_attempts: int,
) -> WorkList:
    chosen = "present p"
    if clip_ids is not None:
        con.register("wanted", pa.table({"clip_id": pa.array(list(clip_ids), pa.string())}))
        chosen += " semi join wanted w on p.clip_id = w.clip_id"
    files = listings[descriptor.stage].files
    con.execute(f"create temp table ready as {_ready_sql(chosen, listings, descriptor, upstreams)}")
    done = f"(select input from {scan(files, ['input', 'status'])} where status in ('passed', 'rejected'))"
    con.execute(f"create temp table open as from ready anti join {done} using (input)")
    clips, ready, unfinished = (
        value(con, f"select count(*) from {what}") for what in (chosen, "ready", "open")
    )
    damaged = tuple(str(path) for found in listings.values() for path in found.damaged)
    if not unfinished:
        return WorkList(_NOTHING.empty_table(), clips, ready, 0, damaged)
    rows = scan(files, ["input", "status", "generation", "attempt"])
    tries = f"""select input, max(generation) as generation, arg_max(attempt, generation * 1000 - attempt) as attempt
        from {rows} where status in ('failed', 'released') group by input"""
    todo = con.sql(f"""
        select clip_id, input, coalesce(t.generation + 1, 0)::INTEGER as generation,
               coalesce(t.attempt + 1, 1)::INTEGER as attempt
        from open left join ({tries}) t using (input)
        where coalesce(t.attempt, 0) < {int(max_attempts)} order by clip_id""").to_arrow_table()
    return WorkList(todo, clips, ready, unfinished - todo.num_rows, damaged)


def _ready_sql(
    chosen: str,
    listings: Mapping[str, Listing],
    descriptor: Descriptor,
    upstreams: Mapping[str, Descriptor],
) -> str:
    """SQL of the clips that passed every upstream, with their input for this stage."""
    joins: list[str] = []
    for i, (name, upstream) in enumerate(upstreams.items()):
        passed = f"(select input from {scan(listings[name].files, ['input', 'status'])} where status = 'passed')"
        joins.append(f"semi join {passed} u{i} on u{i}.input = {present_input(upstream.reads)}")
    return f"select p.clip_id, {present_input(descriptor.reads)} as input from {chosen} {' '.join(joins)}"
