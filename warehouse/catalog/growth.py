"""Tables of clips, stages and commits: rows of new commits, and of the clips that they concern.

A commit's rows are known by its id, which compaction keeps, so only files with other commits are
read. Of a clip with a new row, all rows are marked again: which of them is live may have changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from warehouse.catalog import sql
from warehouse.commits import CommitListing, Descriptor
from warehouse.rows.live import (
    CLIPS_ORDER,
    Listings,
    clips_sql,
    hash_sql,
    literal,
    quote,
    scan,
    value,
)

if TYPE_CHECKING:
    import duckdb

Known = defaultdict[str, set[str]]
_JSON = "if(json_valid(truth), truth, null)::json as truth"
#: Columns of the table of clips as SQL.
KEPT = ", ".join(_JSON if name == "truth" else quote(name) for name in sql.CLIP_COLUMNS)


def known_files(con: duckdb.DuckDBPyConnection) -> Known:
    """Files of the commits in the catalog, by "stage/fingerprint"."""
    known: Known = defaultdict(set)
    for key, file in con.execute("select key, file from commit_files").fetchall():
        known[key].add(file)
    return known


def lost_commits(
    con: duckdb.DuckDBPyConnection, key: str, listing: CommitListing, known: Known
) -> bool:
    """Whether rows are in the catalog that are in no commit any more."""
    if known[key] <= set(listing.files):
        return False
    now = f'select "commit" from {scan(listing.files, ["commit"])}'
    return bool(value(con, f"select count(*) from ({_known(key)} except {now})"))


#: Condition of rows of the clips in the table concerned.
CONCERNED = "and clip_id in (from concerned)"


def note_concerned(con: duckdb.DuckDBPyConnection, listings: Listings, known: Known) -> None:
    """Make the table concerned: all clips of files that are new."""
    parts = [scan(_new(found, known[key]), ["clip_id"]) for key, found in listings.items()]
    rows = " union all ".join(f"from {part}" for part in parts or [scan([], ["clip_id"])])
    con.execute(f"create or replace temp table concerned as select distinct clip_id from ({rows})")


def make_present(con: duckdb.DuckDBPyConnection, reads: Sequence[str], only: str) -> None:
    """Make the table present: readable clips with the hashes of the columns that stages read."""
    hashes = "".join(f", {hash_sql(name)} as {quote('hash_' + name)}" for name in reads)
    con.execute(f"""
        create or replace temp table present as
        select clip_id{hashes} from clips where status = 'passed' {only}""")


def grow_clips(con: duckdb.DuckDBPyConnection, listing: CommitListing, known: Known) -> None:
    """Bring the table of clips up to date; leaves those that it touched in the table touched."""
    con.execute("create or replace temp table touched (clip_id varchar)")
    files = _new(listing, known["clips"])
    if files and not value(con, "select count(*) from clips"):
        rows = clips_sql(con, listing, sql.CLIP_COLUMNS)
        con.execute(f"insert into clips select {KEPT} from {rows}")
    elif files:
        con.execute(f"create or replace temp table news as {_news('clips', files, KEPT)}")
        con.execute("insert into touched select distinct clip_id from news")
        con.execute("insert into news by name from clips where clip_id in (from touched)")
        con.execute("delete from clips where clip_id in (from touched)")
        con.execute(f"""
            insert into clips by name from news
            qualify row_number() over (partition by clip_id order by {CLIPS_ORDER}) = 1""")
    _note(con, "clips", listing, known)


def grow_history(
    con: duckdb.DuckDBPyConnection,
    current: Descriptor,
    every: Sequence[Descriptor],
    listings: Listings,
    known: Known,
) -> None:
    """Bring the rows of a stage under all its fingerprints up to date.

    The table present holds the clips that are touched and those of new rows, if not all.
    """
    table = f"history.{quote(current.stage)}"
    keys = {f"{d.stage}/{d.fingerprint}": d for d in every}
    new = {key: _new(listings[key], known[key]) for key in keys}
    if not value(con, f"select count(*) from {table}"):
        for key, descriptor in keys.items():
            if new[key]:
                _copy_all(con, table, descriptor, new[key], descriptor == current)
    elif any(new.values()) or value(con, "select count(*) from touched"):
        parts = [
            sql.history(d, f"({_news(key, new[key], '*', sql.columns(d))})", d == current)
            for key, d in keys.items()
        ]
        con.execute(f"create or replace temp table news as {' union all by name '.join(parts)}")
        _mark_again(con, table, every)
    for key in keys:
        _note(con, key, listings[key], known)


def _copy_all(
    con: duckdb.DuckDBPyConnection,
    table: str,
    descriptor: Descriptor,
    files: Sequence[str],
    current: bool,
) -> None:
    """Copy all rows of a fingerprint."""
    inputs = scan(files, ["input"])
    once = value(con, f"select count(*) = count(distinct input) from {inputs}")
    rows = sql.history(descriptor, scan(files, sql.columns(descriptor)), current)
    con.execute(f"insert into {table} by name {sql.marked(descriptor, f'({rows})', once)}")


def _mark_again(con: duckdb.DuckDBPyConnection, table: str, every: Sequence[Descriptor]) -> None:
    """Add the rows in the table news, and mark those of all clips that these or others touched."""
    con.execute("""
        create or replace temp table mine as
        from touched union select clip_id from news""")
    mine = f"from {table} where clip_id in (from mine)"
    if value(con, f"insert into news by name select * exclude (live) {mine}"):
        con.execute(f"delete {mine}")
    for descriptor in every:
        rows = f"(from news where fingerprint = {literal(descriptor.fingerprint)})"
        con.execute(f"insert into {table} by name {sql.marked(descriptor, rows, False)}")


def _known(key: str) -> str:
    return f'select "commit" from commit_files where key = {literal(key)}'


def _news(key: str, files: Sequence[str], shown: str, columns: Sequence[str] = ()) -> str:
    """SQL of the rows in files whose commits are not in the catalog."""
    rows = scan(files, columns or sql.CLIP_COLUMNS)
    return f'select {shown} from {rows} where "commit" not in ({_known(key)})'


def _new(listing: CommitListing, known: set[str]) -> list[str]:
    return sorted(set(listing.files) - known)


def _note(con: duckdb.DuckDBPyConnection, key: str, listing: CommitListing, known: Known) -> None:
    """Note which file holds which commit now."""
    stage, _, fingerprint = key.partition("/")
    files = _new(listing, known[key])
    if not known[key] <= set(listing.files):
        files = listing.files
        con.execute("delete from commit_files where key = ?", [key])
        con.execute("delete from commits where stage = ? and fingerprint = ?", [stage, fingerprint])
    if files:
        rows = (
            f'select distinct "commit", filename as file from {scan(files, ["commit", "filename"])}'
        )
        if fingerprint:
            con.execute(f"create or replace temp table noted as {sql.commits(key, files)}")
            con.execute("insert into commits by name from noted")
            rows = 'select "commit", file from noted'
        names = f"{literal(key)} as key, {literal(stage)} as stage"
        con.execute(f"insert into commit_files select {names}, * from ({rows})")
