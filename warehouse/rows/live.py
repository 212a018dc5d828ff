"""Which rows count: SQL over the commits of a stage.

A row names what it was made from by its `input`: a hash of the clip's id and of the clip columns
that the stage depends on. Among the rows of the same input the live one is: passed before rejected
before the rest, then the highest generation, then the highest commit id. So duplicates from two
processes or from a compaction under way change nothing, and no clock decides anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from warehouse.commits import Descriptor, Listing, set_aside, unreadable
from warehouse.errors import FoleyError
from warehouse.files import file_lock
from warehouse.schema import CLIPS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from warehouse.home import Home

T = TypeVar("T")
_RETRIES = 50
_PATIENCE = 3  # attempts before compaction is asked to wait
#: Held while commits that compaction replaced are removed, and by a query that lost to that too
#: often.
REMOVAL = "removal"
#: Order of the rows of one input, best first.
STAGE_ORDER = "case status when 'passed' then 0 when 'rejected' then 1 else 2 end, generation desc, attempt, \"commit\" desc"
CLIPS_ORDER = 'generation desc, "commit" desc'
_TYPES = {
    "input": "UBIGINT",
    "generation": "INTEGER",
    "attempt": "INTEGER",
    "seconds": "FLOAT",
    "committed_at": "TIMESTAMPTZ",
    "bytes": "BIGINT",
    "mtime_ns": "BIGINT",
}


def quote(name: str) -> str:
    """A column or table name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def value(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The one value that a query gives."""
    return con.execute(sql).fetchall()[0][0]


def scan(files: Sequence[str], columns: Sequence[str], places: bool = False) -> str:
    """SQL of the rows of commit files.

    With `places` each with its `filename` and `file_row_number`.
    """
    names = ", ".join(quote(name) for name in columns)
    if not files:
        empty = ", ".join(
            f"null::{_TYPES.get(name, 'VARCHAR')} as {quote(name)}" for name in columns
        )
        extra = ", null::VARCHAR as filename, null::BIGINT as file_row_number" if places else ""
        return f"(select {empty}{extra} where false)"
    paths = ", ".join(literal(name) for name in files)
    if not places:
        return f"(select {names} from read_parquet([{paths}]))"
    options = "filename=true, file_row_number=true"
    return f"(select {names}, filename, file_row_number from read_parquet([{paths}], {options}))"


def newest(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    columns: Sequence[str],
    order: str,
    places: bool = False,
) -> str:
    """SQL of the best row of every input.

    Sorting is spared where no input comes twice, which is nearly always.
    """
    inputs = scan(files, ["input"])
    if value(con, f"select count(*) = count(distinct input) from {inputs}"):
        return scan(files, columns, places)
    needed = list(dict.fromkeys([*columns, "input", "status", "generation", "attempt", "commit"]))
    return f"""(
        with rows as {scan(files, needed, places)},
        twice as (select input from {inputs} group by input having count(*) > 1)
        select r.* from rows r anti join twice using (input)
        union all
        select r.* from rows r semi join twice using (input)
        qualify row_number() over (partition by r.input order by {order}) = 1)"""


def hash_sql(name: str) -> str:
    """SQL of the hash of one column of a clip, together with the clip's id."""
    if name not in CLIPS.names:
        raise FoleyError(
            f"a stage reads {name}, which no clip has; clips have {', '.join(CLIPS.names)}"
        )
    return f"md5_number_lower(concat_ws(chr(31), clip_id, {literal(name)}, coalesce({quote(name)}::VARCHAR, '')))"


@cache
def sql_type(type_: pa.DataType) -> str:
    """DuckDB's type of an Arrow type, so that an empty stage has the columns that a full one has."""
    import duckdb
    import pyarrow as pa

    with duckdb.connect() as con:
        con.register("t", pa.table({"c": pa.array([], type_)}))
        return str(con.sql("select c from t").types[0])


def input_sql(reads: Sequence[str], of: Callable[[str], str] = hash_sql) -> str:
    """SQL of a clip's input for a stage that depends on the clip columns `reads`.

    Their hashes, combined.
    """
    if not reads:
        return "md5_number_lower(clip_id)"
    combined = of(reads[0])
    for name in reads[1:]:
        combined = f"xor({combined}, {of(name)})"
    return combined


def input_of(clip: Mapping[str, Any], reads: Sequence[str]) -> int:
    """The same for one clip in Python."""
    combined = 0
    for name in reads:
        value = "" if clip[name] is None else str(clip[name])
        combined ^= clip_hash(f"{clip['clip_id']}\x1f{name}\x1f{value}")
    return combined if reads else clip_hash(clip["clip_id"])


def clip_hash(text: str) -> int:
    """DuckDB's md5_number_lower."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")


def present_input(reads: Sequence[str]) -> str:
    """SQL of the same from `present p`, which holds the hashes of the columns."""
    return input_sql(reads, lambda name: "p." + quote("hash_" + name)).replace(
        "(clip_id)", "(p.clip_id)"
    )


def clips_sql(
    con: duckdb.DuckDBPyConnection, listing: Listing, columns: Sequence[str], places: bool = False
) -> str:
    """SQL of the newest row of every clip, readable or not: clip_id, status and `columns`."""
    names = list(dict.fromkeys(["clip_id", "status", *columns]))
    return newest(con, listing.files, names, CLIPS_ORDER, places)


def present(wh: Home, clips: Listing, reads: Iterable[str]) -> pa.Table:
    """The readable clips as they are now: clip_id and a hash of each of the columns `reads`.

    Kept in memory for as long as the commits of the clips stay the same, because every stage asks
    for it; so the columns that other stages are known to read come with it.
    """
    wanted = frozenset(reads)
    kept = wh.present
    if kept is not None and kept[0] == clips and wanted <= kept[1]:
        return kept[2]
    wanted |= {name for descriptor in wh.stages().values() for name in descriptor.reads}
    con = wh.cursor()
    try:
        hashes = "".join(
            f", {hash_sql(name)} as {quote('hash_' + name)}" for name in sorted(wanted)
        )
        source = clips_sql(con, clips, sorted(wanted))
        table = con.sql(
            f"select clip_id{hashes} from {source} where status = 'passed'"
        ).to_arrow_table()
    finally:
        con.close()
    wh.present = (clips, wanted, table)
    return table


def live_sql(
    con: duckdb.DuckDBPyConnection,
    listing: Listing,
    descriptor: Descriptor,
    columns: Sequence[str],
    places: bool = False,
) -> str:
    """SQL of a stage's live rows: clip_id, input, status and `columns`.

    `present` must be registered on `con`.
    """
    names = list(dict.fromkeys(["clip_id", "input", "status", *columns]))
    rows = newest(con, listing.files, names, STAGE_ORDER, places)
    return f"(select r.* from {rows} r semi join present p on r.input = {present_input(descriptor.reads)})"


def run_checked(
    wh: Home, sources: Mapping[str, tuple[str, str]], work: Callable[[dict[str, Listing]], T]
) -> T:
    """Run a query over the commits of some (stage, fingerprint), again while compaction moves them underneath.

    `work` gets the listings under the keys of `sources`, which are looked at in reverse order: name
    upstreams before their users, and no listing holds a row whose upstream row is missing from
    another. A commit that is no readable Parquet is renamed and left out; one that the system
    refuses to read raises FoleyError.
    """
    import duckdb

    listings: dict[str, Listing] = {}
    for attempt in range(_RETRIES):
        try:
            with file_lock(wh.lock_path(REMOVAL)) if attempt >= _PATIENCE else nullcontext():
                listings = _look(wh, sources)
                return work(listings)
        except (duckdb.Error, OSError) as exc:
            if "No space left" in str(exc):
                raise FoleyError(
                    f"cannot write under {wh.home}: the disk is full: free some space and run again"
                ) from exc
            if _look(wh, sources) != listings:
                continue
            bad = unreadable([name for found in listings.values() for name in found.files])
            if not bad:
                raise FoleyError(
                    f"cannot query the commits of {', '.join(listings)}: {exc}"
                ) from exc
            set_aside(bad)
    raise FoleyError(f"the commits of {', '.join(listings)} kept changing underneath: run again")


def _look(wh: Home, sources: Mapping[str, tuple[str, str]]) -> dict[str, Listing]:
    return {key: wh.listing(*sources[key]) for key in reversed(list(sources))}
