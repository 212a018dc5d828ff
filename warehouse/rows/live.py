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
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from warehouse.commits import CLIPS_DESCRIPTOR, CommitListing, Descriptor
from warehouse.errors import FoleyError
from warehouse.files import file_lock
from warehouse.rows.damage import DamagedCommitError, heal, trusted
from warehouse.schema import CLIPS, SPINE

if TYPE_CHECKING:
    import duckdb

    from warehouse.home import Home

T = TypeVar("T")
Listings = dict[str, CommitListing]
_RETRIES = 50
_PATIENCE = 3  # attempts before compaction is asked to wait
#: Lock held while commits that compaction replaced are removed, and by a query that failed because
#: of that too often.
REMOVAL = "removal"
#: Order of the rows of one input, best first.
STAGE_ORDER = """
    case status when 'passed' then 0 when 'rejected' then 1 else 2 end,
    generation desc, attempt, "commit" desc"""
CLIPS_ORDER = 'generation desc, "commit" desc'
#: Columns that tell where a row lies.
PLACE = ("filename", "file_row_number")
_TYPES = {f.name: f.type for f in [*SPINE, *CLIPS]} | {PLACE[1]: pa.int64()}


def quote(name: str) -> str:
    """A column or table name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def value(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The one value that a query gives."""
    return con.execute(sql).fetchall()[0][0]


@cache
def sql_type(type_: pa.DataType) -> str:
    """DuckDB's type of an Arrow type, so that empty and full stages have the same columns."""
    import duckdb

    with duckdb.connect() as con:
        con.register("t", pa.table({"c": pa.array([], type_)}))
        return str(con.sql("select c from t").types[0])


def scan(files: Sequence[str], columns: Sequence[str]) -> str:
    """SQL of the rows of commit files; `columns` may name those of PLACE."""
    if not files:
        types = {name: sql_type(_TYPES.get(name, pa.string())) for name in columns}
        nulls = ", ".join(f"null::{type_} as {quote(name)}" for name, type_ in types.items())
        return f"(select {nulls} where false)"
    names = ", ".join(quote(name) for name in columns)
    paths = ", ".join(literal(name) for name in files)
    options = "".join(f", {name}=true" for name in PLACE if name in columns)
    return f"(select {names} from read_parquet([{paths}]{options}))"


def newest(
    con: duckdb.DuckDBPyConnection, files: Sequence[str], columns: Sequence[str], order: str
) -> str:
    """SQL of the best row of every input."""
    inputs = scan(files, ["input"])
    # Sorting is spared where no input comes twice, which is nearly always.
    if value(con, f"select count(*) = count(distinct input) from {inputs}"):
        return scan(files, columns)
    needed = list(dict.fromkeys([*columns, "input", "status", "generation", "attempt", "commit"]))
    return f"""(
        with rows as {scan(files, needed)},
        twice as (select input from {inputs} group by input having count(*) > 1)
        select r.* from rows r anti join twice using (input)
        union all
        select r.* from rows r semi join twice using (input)
        qualify row_number() over (partition by r.input order by {order}) = 1)"""


def hash_sql(name: str) -> str:
    """SQL of the hash of one column of a clip, together with the clip's id."""
    if name not in CLIPS.names:
        columns = ", ".join(CLIPS.names)
        raise FoleyError(f"a stage reads {name}, which no clip has; clips have {columns}")
    text = f"coalesce({quote(name)}::VARCHAR, '')"
    return f"md5_number_lower(concat_ws(chr(31), clip_id, {literal(name)}, {text}))"


def input_sql(hashes: Sequence[str], clip_id: str = "clip_id") -> str:
    """SQL of a clip's input: the hashes of the columns that a stage reads, combined."""
    if not hashes:
        return f"md5_number_lower({clip_id})"
    return reduce(lambda first, second: f"xor({first}, {second})", hashes)


def input_of(clip: Mapping[str, Any], reads: Sequence[str]) -> int:
    """The same for one clip in Python."""
    combined = 0
    for name in reads:
        text = "" if clip[name] is None else str(clip[name])
        combined ^= clip_hash(f"{clip['clip_id']}\x1f{name}\x1f{text}")
    return combined if reads else clip_hash(clip["clip_id"])


def clip_hash(text: str) -> int:
    """DuckDB's md5_number_lower."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")


def present_input(reads: Sequence[str]) -> str:
    """SQL of the same from `present p`, which holds the hashes of the columns."""
    return input_sql([f"p.{quote('hash_' + name)}" for name in reads], "p.clip_id")


def present(home: Home, clips: CommitListing, reads: Iterable[str]) -> pa.Table:
    """The readable clips as they are now: clip_id and a hash of each of the columns `reads`.

    Held in memory while the commits of the clips stay the same, because every stage asks for it;
    the columns that other planned stages read come with it.
    """
    wanted = frozenset(reads)
    cached = home.present
    if cached is not None and cached[0] == clips and wanted <= cached[1]:
        return cached[2]
    wanted |= {name for descriptor in home.stages().values() for name in descriptor.reads}
    hashes = "".join(f", {hash_sql(name)} as {quote('hash_' + name)}" for name in sorted(wanted))
    with home.cursor() as con:
        source = clips_sql(con, clips, sorted(wanted))
        sql = f"select clip_id{hashes} from {source} where status = 'passed'"
        table = con.sql(sql).to_arrow_table()
    home.present = (clips, wanted, table)
    return table


def clips_sql(
    con: duckdb.DuckDBPyConnection, listing: CommitListing, columns: Sequence[str]
) -> str:
    """SQL of the newest row of every clip, readable or not: clip_id, status and `columns`."""
    names = list(dict.fromkeys(["clip_id", "status", *columns]))
    return newest(con, listing.files, names, CLIPS_ORDER)


def live_sql(
    home: Home,
    con: duckdb.DuckDBPyConnection,
    listings: Listings,
    descriptor: Descriptor,
    columns: Sequence[str],
) -> str:
    """SQL, for `con` alone, of a stage's live rows: clip_id, status and `columns`."""
    listing = listings[descriptor.stage]
    if descriptor.stage == "clips":
        return clips_sql(con, listing, columns)
    con.register("present", present(home, listings["clips"], descriptor.reads))
    names = list(dict.fromkeys(["clip_id", "input", "status", *columns]))
    rows = newest(con, listing.files, names, STAGE_ORDER)
    same = f"r.input = {present_input(descriptor.reads)}"
    return f"(select r.* from {rows} r semi join present p on {same})"


def query_live(
    home: Home, descriptor: Descriptor, columns: Sequence[str], sql: Callable[[str], str]
) -> pa.Table:
    """Rows of a query on a stage's live rows with `columns`, whose SQL `sql` is given."""

    def work(listings: Listings) -> pa.Table:
        with home.cursor() as con:
            return con.sql(sql(live_sql(home, con, listings, descriptor, columns))).to_arrow_table()

    return run_checked(home, sources(descriptor), work)


def sources(*descriptors: Descriptor) -> dict[str, tuple[str, str]]:
    """What a query over the clips and these stages reads: (stage, fingerprint) by stage."""
    return {d.stage: (d.stage, d.fingerprint) for d in (CLIPS_DESCRIPTOR, *descriptors)}


def run_checked(
    home: Home, sources: Mapping[str, tuple[str, str]], work: Callable[[Listings], T]
) -> T:
    """Run a query over commits, again while compaction moves them underneath.

    Args:
        home: where the commits are.
        sources: (stage, fingerprint) by any key, upstreams before their users. They are listed in
            reverse order, so that no listing holds a row whose upstream row another lacks.
        work: gets the listings under the same keys and runs the query.

    A damaged commit is set aside, so that its clips are to do, and the query runs again; so it does
    after an error of the disk that passes. Raises FoleyError for one that stays.
    """
    import duckdb

    listings: Listings = {}
    errors = 0
    for attempt in range(_RETRIES):
        try:
            wait = attempt >= _PATIENCE and home.writable
            with file_lock(home.lock_path(REMOVAL)) if wait else nullcontext():
                listings = _list(home, sources)
                return work({key: trusted(home, found) for key, found in listings.items()})
        except (duckdb.Error, OSError, DamagedCommitError) as exc:
            if "No space left" in str(exc):
                advice = "the disk is full: free some space and run again"
                raise FoleyError(f"cannot write under {home.home}: {advice}") from exc
            if isinstance(exc, duckdb.FatalException):  # this database answers no more
                home.forget_database()
            if _list(home, sources) != listings or heal(home, _suspects(exc, listings)):
                continue
            errors += 1
            if errors > _PATIENCE:
                raise FoleyError(f"cannot query commits of {', '.join(listings)}: {exc}") from exc
    raise FoleyError(f"the commits of {', '.join(listings)} kept changing: run again")


def _suspects(error: Exception, listings: Listings) -> list[Path]:
    """Commits one of which may have made a query fail."""
    if isinstance(error, DamagedCommitError):
        return [Path(str(error))]
    return [commit.path for listing in listings.values() for commit in listing.good]


def _list(home: Home, sources: Mapping[str, tuple[str, str]]) -> Listings:
    return {key: home.listing(*sources[key]) for key in reversed(list(sources))}
