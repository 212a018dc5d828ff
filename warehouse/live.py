"""Which rows count: SQL over the commits of a stage.

A clip's live row under a fingerprint is, among the rows whose `input` matches the clip as it is now: passed before
rejected before the rest, then the highest generation, then the highest commit id. So duplicates from two processes or
from a compaction under way change nothing, and no clock decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from warehouse.commits import Descriptor, Listing, unreadable
from warehouse.errors import FoleyError
from warehouse.schema import CLIPS, MAX_ATTEMPTS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from warehouse.store import Warehouse

T = TypeVar("T")
_RETRIES = 50
_RANK = "case status when 'passed' then 0 when 'rejected' then 1 else 2 end"
_NEWEST = f"order by {_RANK}, generation desc, commit desc"


def quote(name: str) -> str:
    """A column or table name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def scan(files: Sequence[str], columns: Sequence[str]) -> str:
    """SQL of the rows of commit files, each with its `filename` and `file_row_number`."""
    names = ", ".join(quote(name) for name in columns)
    if not files:
        empty = ", ".join(f"null::{_TYPES.get(name, 'VARCHAR')} as {quote(name)}" for name in columns)
        return f"(select {empty}, null::VARCHAR as filename, null::BIGINT as file_row_number where false)"
    paths = ", ".join(literal(name) for name in files)
    return (
        f"(select {names}, filename, file_row_number from read_parquet([{paths}], filename=true, file_row_number=true))"
    )


_TYPES = {"input": "UBIGINT", "generation": "INTEGER", "attempt": "INTEGER", "seconds": "FLOAT"} | {
    "committed_at": "TIMESTAMPTZ",
    "bytes": "BIGINT",
    "mtime_ns": "BIGINT",
}


def input_sql(reads: Sequence[str]) -> str:
    """SQL of a clip's input: the hash of the clip columns that a stage depends on."""
    unknown = sorted(set(reads) - set(CLIPS.names))
    if unknown:
        raise FoleyError(f"a stage reads {', '.join(unknown)}, which no clip has; clips have {', '.join(CLIPS.names)}")
    if not reads:
        return "0::UBIGINT"
    parts = ", ".join(f"coalesce({quote(name)}::VARCHAR, '')" for name in reads)
    return f"md5_number_lower(concat_ws(chr(31), {parts}))"


def clips_sql(files: Sequence[str], columns: Sequence[str], status: str | None = "passed") -> str:
    """SQL of the newest row of every clip: clip_id, status and `columns`, with filename and file_row_number."""
    names = list(dict.fromkeys(["clip_id", "status", "generation", "commit", *columns]))
    newest = "qualify row_number() over (partition by clip_id order by generation desc, commit desc) = 1"
    inner = f"(select * from {scan(files, names)} {newest})"
    return f"(select * from {inner} where status = {literal(status)})" if status else inner


def live_sql(clips: Sequence[str], files: Sequence[str], descriptor: Descriptor, columns: Sequence[str]) -> str:
    """SQL of a stage's live rows: clip_id, status and `columns`, with filename and file_row_number."""
    names = list(dict.fromkeys(["clip_id", "input", "status", "generation", "commit", *columns]))
    current = f"(select clip_id, {input_sql(descriptor.reads)} as input from {clips_sql(clips, descriptor.reads)})"
    return (
        f"(select r.* from {scan(files, names)} r semi join {current} c on r.clip_id = c.clip_id and r.input = c.input "
        f"qualify row_number() over (partition by r.clip_id {_NEWEST}) = 1)"
    )


def run_checked(wh: Warehouse, sources: Mapping[str, tuple[str, str]], work: Callable[[dict[str, Listing]], T]) -> T:
    """Run a query over the commits of some (stage, fingerprint), again while compaction moves them underneath.

    `work` gets the listings under the keys of `sources`, which are looked at in reverse order: name upstreams before
    their users, and no listing holds a row whose upstream row is missing from another. A commit that is no readable Parquet is left out and remembered as damaged;
    one that the system refuses to read raises FoleyError.
    """
    import duckdb

    listings: dict[str, Listing] = {}
    for _ in range(_RETRIES):
        listings = _look(wh, sources)
        try:
            return work(listings)
        except (duckdb.Error, OSError) as exc:
            files = [name for found in listings.values() for name in found.files]
            if _look(wh, sources) != listings:
                continue
            bad = unreadable(files)
            if not bad:
                raise FoleyError(f"cannot query the commits of {', '.join(listings)}: {exc}") from exc
            wh.set_aside(bad)
    raise FoleyError(f"the commits of {', '.join(listings)} kept changing underneath: run again")


def _look(wh: Warehouse, sources: Mapping[str, tuple[str, str]]) -> dict[str, Listing]:
    return {key: wh.listing(*sources[key]) for key in reversed(sources)}


@dataclass(frozen=True)
class WorkList:
    """Clips that a stage has yet to do (clip_id, input, generation, attempt; sorted) and counts of the others."""

    todo: pa.Table
    clips: int
    ready: int
    quarantined: int
    damaged: tuple[str, ...]


def work_list(
    wh: Warehouse, descriptor: Descriptor, clip_ids: Sequence[str] | None = None, max_attempts: int = MAX_ATTEMPTS
) -> WorkList:
    """Clips that passed every upstream, minus those with a verified row for their present input."""
    upstreams = {name: wh.descriptor(name, fp) for name, fp in descriptor.upstream.items()}
    own = (descriptor.stage, descriptor.fingerprint)

    def work(listings: dict[str, Listing]) -> WorkList:
        con = wh.cursor()
        try:
            _ready(con, listings, descriptor, upstreams, clip_ids)
            total, ready = _one(con, "select (select count(*) from chosen), (select count(*) from ready)")
            rows = scan(listings[descriptor.stage].files, ["clip_id", "input", "status", "generation", "attempt"])
            con.execute(_OPEN.format(rows=rows, limit=int(max_attempts)))
            todo = con.sql(
                "select clip_id, input, generation, attempt from open where not quarantined order by clip_id"
            ).to_arrow_table()
            (quarantined,) = _one(con, "select count(*) from open where quarantined")
        finally:
            con.execute("drop table if exists chosen; drop table if exists ready; drop table if exists open")
            con.close()
        damaged = tuple(str(path) for found in listings.values() for path in found.damaged)
        return WorkList(todo, total, ready, quarantined, damaged)

    stages = {name: (name, fingerprint) for name, fingerprint in descriptor.upstream.items()}
    return run_checked(wh, {"clips": ("clips", "source"), **stages, descriptor.stage: own}, work)


_OPEN = """
create or replace temp table open as
with mine as materialized {rows},
fresh as (select * from ready anti join (select clip_id, input from mine where status in ('passed', 'rejected')) d
          using (clip_id, input)),
tries as (select clip_id, input, max(generation) as generation, arg_max(attempt, generation * 1000 - attempt) as attempt
          from mine where status in ('failed', 'released') group by all)
select f.clip_id, f.input, coalesce(t.generation + 1, 0)::INTEGER as generation,
       coalesce(t.attempt + 1, 1)::INTEGER as attempt, coalesce(t.attempt, 0) >= {limit} as quarantined
from fresh f left join tries t using (clip_id, input)
"""


def _ready(
    con: duckdb.DuckDBPyConnection,
    listings: dict[str, Listing],
    descriptor: Descriptor,
    upstreams: dict[str, Descriptor | None],
    clip_ids: Sequence[str] | None,
) -> None:
    """Fill the temporary tables `chosen` (clips asked for) and `ready` (those that passed every upstream)."""
    reads = sorted({*descriptor.reads, *(r for d in upstreams.values() if d for r in d.reads)})
    inputs = [f"{input_sql(descriptor.reads)} as input"]
    joins: list[str] = []
    for i, (name, upstream) in enumerate(upstreams.items()):
        inputs.append(f"{input_sql(upstream.reads if upstream else ())} as input_{i}")
        passed = f"(select clip_id, input from {scan(listings[name].files, ['clip_id', 'input', 'status'])} "
        passed += "where status = 'passed')"
        joins.append(f"semi join {passed} u{i} on c.clip_id = u{i}.clip_id and c.input_{i} = u{i}.input")
    chosen = ""
    if clip_ids is not None:
        import pyarrow as pa

        con.register("wanted", pa.table({"clip_id": pa.array(list(clip_ids), pa.string())}))
        chosen = "semi join wanted using (clip_id)"
    source = clips_sql(listings["clips"].files, reads)
    con.execute(f"create or replace temp table chosen as select clip_id, {', '.join(inputs)} from {source} {chosen}")
    con.execute(f"create or replace temp table ready as select c.clip_id, c.input from chosen c {' '.join(joins)}")


def _one(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row = con.execute(sql).fetchone()
    assert row is not None
    return row
