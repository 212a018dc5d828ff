"""What the catalog holds: stages and commits (see growth.py), and small tables filled anew.

The funnel, failures and sounds follow from the catalog's own tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.catalog import sql
from warehouse.catalog.dataset_rows import add_versions, make_dataset_rows
from warehouse.catalog.growth import (
    CONCERNED,
    KEPT,
    grow_clips,
    grow_history,
    known_files,
    lost_commits,
    make_present,
    note_concerned,
)
from warehouse.catalog.tables import STAGE_COLUMNS, TABLES, VIEWS, comment_sql, comments_sql
from warehouse.commits import CLIPS_DESCRIPTOR, CommitListing, Descriptor
from warehouse.datasets.corpus import CorpusSettings, corpus_settings, newest_dataset
from warehouse.datasets.versions import Dataset, list_datasets
from warehouse.files import Json, identity_hash, read_json
from warehouse.home import RECORDS
from warehouse.rows.live import Listings, clips_sql, literal, quote, scan, value
from warehouse.schema import SPINE, array_spec, comment_of, is_array

if TYPE_CHECKING:
    import duckdb

    from warehouse.home import Home

FORMAT = "9"  # another number for another catalog of the same files


@dataclass(frozen=True)
class Snapshot:
    """The stages of one moment, for all of a build: other runs plan new ones meanwhile.

    `current` has upstreams before their users, `every` all that was ever planned of these stages.
    """

    current: dict[str, Descriptor]
    every: dict[str, list[Descriptor]]

    @staticmethod
    def of(home: Home) -> Snapshot:
        """What is planned now."""
        current = home.stages()
        return Snapshot(current, {stage: home.descriptors(stage) for stage in current})

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """What is copied: clips, then every fingerprint, upstreams before their users."""
        stages = [(d.stage, d.fingerprint) for every in self.every.values() for d in every]
        clips = (CLIPS_DESCRIPTOR.stage, CLIPS_DESCRIPTOR.fingerprint)
        return {"clips": clips, **{f"{stage}/{name}": (stage, name) for stage, name in stages}}


@dataclass(frozen=True)
class Contents:
    """Stages and commits of one moment."""

    snapshot: Snapshot
    listings: Listings

    def identity(self, stage: str) -> str:
        """Hash of all that a stage was ever planned as."""
        every = [asdict(descriptor) for descriptor in self.snapshot.every[stage]]
        return identity_hash([every, self.snapshot.current[stage].fingerprint])


def make(con: duckdb.DuckDBPyConnection) -> None:
    """Make everything but the tables of stages, empty, with comments."""
    con.execute("begin")  # many small statements: one flush instead of one each
    con.execute("create schema history")
    con.execute("create table meta (key varchar, value varchar)")
    con.execute("insert into meta values ('format', ?)", [FORMAT])
    none = CommitListing((), ())
    con.execute(
        f"create table clips as select {KEPT} from {clips_sql(con, none, sql.CLIP_COLUMNS)}"
    )
    for name, table in TABLES.items():
        columns = ", ".join(f"{quote(c)} {type_}" for c, (type_, _) in table["columns"].items())
        con.execute(f"create table {name} ({columns})")
    make_dataset_rows(con)
    for name, view in VIEWS.items():
        con.execute(f"create view {name} as {view['sql']}")
    for statement in comment_sql():
        con.execute(statement)
    con.execute("commit")


def can_grow(con: duckdb.DuckDBPyConnection, contents: Contents) -> bool:
    """Whether this catalog is of this kind, not half empty, and has nothing that is gone."""
    sizes = "from pragma_database_size() where database_name = 'catalog'"
    made = con.execute("select value from meta where key = 'format'").fetchall()
    if made != [(FORMAT,)]:
        return False
    if value(con, f"select free_blocks > used_blocks + 64 {sizes}"):
        return False
    tables = "select table_name from duckdb_tables() where schema_name = 'history'"
    if {row[0] for row in con.execute(tables).fetchall()} - contents.snapshot.current.keys():
        return False
    known, listings = known_files(con), contents.listings
    return known.keys() <= listings.keys() and not any(
        lost_commits(con, key, listings[key], known) for key in list(known)
    )


def fill(con: duckdb.DuckDBPyConnection, home: Home, contents: Contents) -> None:
    """Bring the catalog up to date."""
    snapshot, listings = contents.snapshot, contents.listings
    stages, dataset = list(snapshot.current.values()), newest_dataset(home)
    facts = {f"stage {stage}": contents.identity(stage) for stage in snapshot.current}
    other = [d for d in stages if _noted(con, f"stage {d.stage}") != facts[f"stage {d.stage}"]]
    con.execute("begin")
    for descriptor in other:
        _make_stage(con, descriptor, snapshot.every[descriptor.stage])
    con.execute("commit")
    files = known_files(con)
    note_concerned(con, {} if other else listings, files)
    known = None if other else _noted(con, f"funnel {dataset.version if dataset else ''}")
    removed = _removed(con)
    before = _numbers(con, stages, dataset, CONCERNED) if known else []
    grow_clips(con, listings["clips"], files)
    reads = {name for every in snapshot.every.values() for d in every for name in d.reads}
    make_present(con, sorted(reads), "" if other else CONCERNED)
    for stage, descriptor in snapshot.current.items():
        grow_history(con, descriptor, snapshot.every[stage], listings, files)
    con.execute("begin")  # many small statements: one flush instead of one each
    _small_tables(con, home, snapshot)
    if known and removed == _removed(con):  # the numbers are sums over clips
        after = _numbers(con, stages, dataset, CONCERNED)
        sums = zip(json.loads(known), before, after, strict=True)
        numbers = [old - was + now for old, was, now in sums]
    else:
        numbers = _numbers(con, stages, dataset, "")
    _refill(con, "funnel", sql.funnel(numbers, stages, dataset))
    version = dataset.version if dataset else ""
    shown = value(con, f"select count(*) from datasets where version = {literal(version)}")
    if shown or not dataset:  # without its members the numbers are wrong, and these may heal
        facts[f"funnel {version}"] = json.dumps(numbers)
    _derived(con, stages)
    con.execute("delete from meta where key <> 'format'")
    settings = corpus_settings(home) or CorpusSettings()
    facts |= {"home": str(home.home), "dataset": settings.dataset, "policy": settings.policy}
    for key, fact in facts.items():
        con.execute("insert into meta values (?, ?)", [key, fact])
    con.execute("commit")


def _noted(con: duckdb.DuckDBPyConnection, key: str) -> str | None:
    found = con.execute("select value from meta where key = ?", [key]).fetchall()
    return found[0][0] if found else None


def _removed(con: duckdb.DuckDBPyConnection) -> list[tuple[str]]:
    return con.execute("select name from sources where removed order by name").fetchall()


def _derived(con: duckdb.DuckDBPyConnection, stages: Sequence[Descriptor]) -> None:
    """Fill the tables that follow from others."""
    sounds = [sql.sounds(d) for d in stages if "sound_sha256" in d.columns.names]
    for name, parts in {
        "failures": [sql.failures(descriptor.stage) for descriptor in stages],
        "sounds": [*sounds, sql.GENERATED_SOUNDS],
    }.items():
        con.execute(f"delete from {name}")
        for part in parts:
            con.execute(f"insert into {name} by name {part}")


def _make_stage(
    con: duckdb.DuckDBPyConnection, current: Descriptor, every: Sequence[Descriptor]
) -> None:
    """Make the table of all rows of a stage, empty, and the view of those that are live now."""
    stage = quote(current.stage)
    parts = [
        f"select *, true as live from ({sql.history(d, scan([], sql.columns(d)), False)})"
        for d in every
    ]
    con.execute(f"create or replace table history.{stage} as {' union all by name '.join(parts)}")
    for table in ("commit_files", "commits"):
        con.execute(f"delete from {table} where stage = {literal(current.stage)}")
    shown = ["clip_id", "status", "reason", *sql.own(current)]
    shown += ["error", "message", "attempt", "seconds", "committed_at", "commit", "fingerprint"]
    columns = ", ".join(quote(name) for name in shown)
    con.execute(f"""
        create or replace view {stage} as
        select {columns} from history.{stage} where live and current""")
    texts: dict[str, str] = {f.name: comment_of(f) for f in SPINE} | STAGE_COLUMNS
    texts |= {f.name: comment_of(f) or f.name for d in [*every, current] for f in d.columns}
    doc = current.doc or f"stage {current.stage}"
    kinds = {"view main": "live rows, current settings", "table history": "every row"}
    for kind, what in kinds.items():
        name = f"{kind.split()[1]}.{stage}"
        found = [row[0] for row in con.execute(f"describe {name}").fetchall()]
        of = {column: str(texts.get(column, column)) for column in found}
        for statement in comments_sql(kind.split()[0], name, f"{doc} ({what})", of):
            con.execute(statement)


def _small_tables(con: duckdb.DuckDBPyConnection, home: Home, snapshot: Snapshot) -> None:
    """Fingerprints, datasets with the rows of new versions, features, and the JSON records."""
    current = {(d.stage, d.fingerprint) for d in snapshot.current.values()}
    every = [descriptor for stage in snapshot.every.values() for descriptor in stage]
    rows = [asdict(d) | {"current": (d.stage, d.fingerprint) in current} for d in every]
    _refill(con, "fingerprints", rows)
    arrays = [(d, column) for d in every for column in d.columns if is_array(column)]
    rows = [asdict(d) | {"name": c.name, "comment": comment_of(c)} | _layout(c) for d, c in arrays]
    _refill(con, "array_columns", rows)
    datasets = add_versions(con, list_datasets(home))
    rows = [asdict(d) | d.counts | d.diff | {"path": str(d.path)} for d in datasets]
    _refill(con, "datasets", rows)
    for kind in RECORDS:
        records: list[Json]
        records = [record | {"record": record} for record in home.records(kind)]
        if kind == "health":
            records = [record | check for record in records for check in record["checks"]]
        _refill(con, "generated" if kind == "sounds" else kind, records)
    con.execute(sql.SOURCES)
    _refill(con, "features", list(_features(home)))


def _features(home: Home) -> Iterator[Json]:
    for path in sorted((home.home / "features").glob("*/_features.json")):
        with home.leaving_out(path):
            note = read_json(path)
            size = sum(shard["bytes"] for shard in note["shards"])
            yield note | {"path": str(path.parent), "bytes": size}


def _layout(column: pa.Field) -> dict[str, object]:
    """Dtype and shape of an array column; a column of bytes has neither."""
    if b"dtype" not in (column.metadata or {}):
        return {}
    dtype, shape = array_spec(column)
    return {"dtype": dtype, "shape": shape}


def _refill(
    con: duckdb.DuckDBPyConnection, name: str, rows: Sequence[Mapping[str, object]]
) -> None:
    """Fill one of TABLES anew; a value that is no text or number goes in as JSON."""
    types = {column: type_ for column, (type_, _) in TABLES[name]["columns"].items()}
    texts = {
        column: pa.array([_text(row.get(column), type_) for row in rows], pa.string())
        for column, type_ in types.items()
    }
    con.execute(f"delete from {name}")
    con.register("filling", pa.table(texts))
    columns = ", ".join(f"try_cast({quote(c)} as {type_})" for c, type_ in types.items())
    con.execute(f"insert into {name} select {columns} from filling")
    con.unregister("filling")


def _text(value: object, type_: str) -> str | None:
    if value is None or (isinstance(value, str) and type_ != "JSON"):
        return value
    if isinstance(value, bool | int | float) and type_ != "JSON":
        return str(value)
    return json.dumps(value, sort_keys=True, default=str)


def _numbers(
    con: duckdb.DuckDBPyConnection, stages: Sequence[Descriptor], dataset: Dataset | None, only: str
) -> list[int]:
    """The funnel's numbers of all clips, or only of some: sums over the clips that are there."""
    if only and not value(con, f"select count(*) from clips where true {only}"):
        return [0] * max(1, 5 * len(stages) + bool(dataset))
    rows, numbers_sql = sql.steps(stages, dataset, sql.published(dataset, only))
    known = f"with all_known as ({' union all '.join(rows)})"
    [numbers] = con.execute(f"{known} {numbers_sql}").fetchall()
    return list(numbers)
