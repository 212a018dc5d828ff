"""Builds HOME/catalog.duckdb from the commits, datasets and records, and swaps it in.

One publisher at a time holds a file lock. Readers open the file read-only whenever they like and
see one state of the warehouse, entire: everything is copied into tables, so that no reader touches
a commit file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.catalog import sql
from warehouse.catalog.tables import STAGE_COLUMNS, TABLES, VIEWS, comment_sql, comments_sql
from warehouse.commits import CLIPS_DESCRIPTOR, Descriptor
from warehouse.datasets.versions import MEMBERS, list_datasets
from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import file_lock, read_json, scratch_folder, sync_folder
from warehouse.home import RECORDS
from warehouse.rows.live import Listings, clips_sql, present, quote, run_checked, sql_type, value
from warehouse.schema import CLIPS, SPINE, comment_of, is_array

if TYPE_CHECKING:
    import duckdb

    from warehouse.home import Home


def publish(home: Home) -> Path:
    """Build the catalog and swap it in, unless nothing changed since the last time.

    Returns its path. Raises FoleyError when the disk is full or the home folder cannot be written;
    the old catalog then stays.
    """
    import duckdb

    target = home.home / "catalog.duckdb"
    with (
        file_lock(home.lock_path("publish")),
        clear_os_errors(f"write {target}"),
        scratch_folder(home.tmp) as folder,
    ):
        state = _state(home)
        if _published_state(target) == state:
            return target
        built = folder / "catalog.duckdb"
        try:
            run_checked(home, _sources(home), lambda listings: _build(home, built, listings, state))
        except duckdb.Error as exc:
            raise FoleyError(f"cannot build the catalog: {exc}") from exc
        with open(built, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(built, target)
        sync_folder(target.parent)
    return target


def _sources(home: Home) -> dict[str, tuple[str, str]]:
    """What is copied: clips, then every fingerprint of all stages, upstreams before their users."""
    stages = [(stage, name) for stage in home.stages() for name in home.fingerprints(stage)]
    clips = (CLIPS_DESCRIPTOR.stage, CLIPS_DESCRIPTOR.fingerprint)
    return {"clips": clips, **{f"{stage}/{name}": (stage, name) for stage, name in stages}}


def _state(home: Home) -> str:
    """Hash of the names and times of everything that the catalog is built from."""
    digest = hashlib.sha256(b"3")  # another number for another catalog of the same files
    for path in _inputs(home):
        stat = path.stat() if path.exists() else None
        what = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        digest.update(f"{path}\x1f{what}\x1e".encode())
    return digest.hexdigest()


def _inputs(home: Home) -> Iterator[Path]:
    folders = ("commits/*/*", "commits/*/*/*", "datasets/*/dataset.json", "features/*/*.json")
    for pattern in folders:
        yield from sorted(path for path in home.home.glob(pattern) if not path.is_dir())
    yield from home.record_files(*RECORDS)


def _published_state(target: Path) -> str | None:
    import duckdb

    if not target.exists():
        return None
    try:
        with duckdb.connect(str(target), read_only=True) as con:
            return value(con, "select value from meta where key = 'state'")
    except duckdb.Error:
        return None


def _build(home: Home, path: Path, listings: Listings, state: str) -> None:
    import duckdb

    path.unlink(missing_ok=True)
    with duckdb.connect(str(path), config={"autoinstall_known_extensions": False}) as con:
        con.execute("create schema history")
        con.execute("create table meta (key varchar, value varchar)")
        con.execute("insert into meta values ('state', ?), ('home', ?)", [state, str(home.home)])
        names = ["clip_id", "status", *CLIPS.names, *sql.CLIP_OUTCOME]
        columns = ", ".join(quote(name) for name in names)
        clips = clips_sql(con, listings["clips"], names)
        con.execute(f"create table clips as select {columns} from {clips}")
        stages = home.stages()
        reads = {name for stage in stages.values() for name in stage.reads}
        con.register("present", present(home, listings["clips"], reads))
        for descriptor in stages.values():
            _stage(con, home, descriptor, listings)
        con.execute("begin")  # hundreds of small statements: one flush instead of one each
        _tables(con, home, stages)
        _derived(con, stages, listings)
        _comment(con, stages)
        con.execute("commit")
        con.unregister("present")
        con.execute("checkpoint")


def _stage(
    con: duckdb.DuckDBPyConnection, home: Home, current: Descriptor, listings: Listings
) -> None:
    """Copy all rows of a stage into history.<stage>; a view shows the live ones now."""
    stage = quote(current.stage)
    parts = [
        sql.history(
            con,
            home.descriptor(current.stage, name),
            listings[f"{current.stage}/{name}"],
            name == current.fingerprint,
        )
        for name in home.fingerprints(current.stage)
    ]
    con.execute(f"create table history.{stage} as {' union all by name '.join(parts)}")
    shown = ["clip_id", "status", "reason", *(f.name for f in current.columns if not is_array(f))]
    shown += ["error", "message", "attempt", "seconds", "committed_at", "commit", "fingerprint"]
    columns = ", ".join(quote(name) for name in shown)
    con.execute(f"""
        create view {stage} as
        select {columns} from history.{stage} where live and current""")


def _tables(con: duckdb.DuckDBPyConnection, home: Home, stages: Mapping[str, Descriptor]) -> None:
    """Small tables: fingerprints, datasets with their members, features, and the JSON records."""
    every = [home.descriptor(stage, name) for stage in stages for name in home.fingerprints(stage)]
    current = {(d.stage, d.fingerprint) for d in stages.values()}
    rows = [asdict(d) | {"current": (d.stage, d.fingerprint) in current} for d in every]
    _table(con, "fingerprints", rows)
    datasets = list_datasets(home)
    rows = [asdict(d) | d.counts | d.diff | {"path": str(d.path)} for d in datasets]
    _table(con, "datasets", rows)
    for kind in RECORDS:
        records = [record | {"record": record} for record in home.records(kind)]
        _table(con, "generated" if kind == "sounds" else kind, records)
    _table(con, "features", list(_features(home)))
    empty = ", ".join(f"null::{sql_type(f.type)} as {quote(f.name)}" for f in MEMBERS)
    parts = [sql.members(dataset) for dataset in datasets]
    parts.append(f"select null::varchar as version, {empty} where false")
    con.execute(f"create table dataset_members as {' union all '.join(parts)}")


def _features(home: Home) -> Iterator[dict[str, Any]]:
    for path in sorted((home.home / "features").glob("*/_features.json")):
        note = read_json(path)
        size = sum(shard["bytes"] for shard in note["shards"])
        yield note | {"path": str(path.parent), "bytes": size}


def _create(con: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    """Create one of TABLES; returns the types of its columns."""
    types = {column: type_ for column, (type_, _) in TABLES[name][1].items()}
    columns = ", ".join(f"{quote(column)} {type_}" for column, type_ in types.items())
    con.execute(f"create table {name} ({columns})")
    return types


def _table(con: duckdb.DuckDBPyConnection, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Create one of TABLES and fill it; a value that is no text or number goes in as JSON."""
    types = _create(con, name)
    marks = ", ".join(f"try_cast(? as {type_})" for type_ in types.values())
    for row in rows:
        values = [_cell(row.get(column), type_) for column, type_ in types.items()]
        con.execute(f"insert into {name} values ({marks})", values)


def _cell(value: Any, type_: str) -> Any:
    if value is None or (isinstance(value, str | int | float) and type_ != "JSON"):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def _derived(
    con: duckdb.DuckDBPyConnection, stages: Mapping[str, Descriptor], listings: Listings
) -> None:
    """Tables and views computed from the others."""
    sounds = [d for d in stages.values() if "sound_sha256" in d.columns.names]
    commits = [(key, listing) for key, listing in listings.items() if "/" in key]
    tables = {
        "funnel": [sql.funnel(i, d) for i, d in enumerate(stages.values(), 1)],
        "failures": [sql.failures(stage) for stage in stages],
        "commits": [sql.commits(key, listing) for key, listing in commits],
        "sounds": [*map(sql.sounds, sounds), sql.GENERATED_SOUNDS],
    }
    for name, parts in tables.items():
        _create(con, name)
        for part in parts:
            con.execute(f"insert into {name} by name {part}")
    for name, (view, _, _) in VIEWS.items():
        con.execute(f"create view {name} as {view}")


def _comment(con: duckdb.DuckDBPyConnection, stages: Mapping[str, Descriptor]) -> None:
    """COMMENT on everything: from `tables`, and for stages from their own columns."""
    statements = list(comment_sql())
    spine = {f.name: comment_of(f) for f in SPINE} | STAGE_COLUMNS
    for stage, descriptor in stages.items():
        texts = spine | {f.name: comment_of(f) or f.name for f in descriptor.columns}
        doc = descriptor.doc or f"stage {stage}"
        kinds = {"view main": "live rows, current settings", "table history": "every row"}
        for kind, what in kinds.items():
            name = f"{kind.split()[1]}.{quote(stage)}"
            columns = [row[0] for row in con.execute(f"describe {name}").fetchall()]
            texts_shown = {column: texts.get(column, column) for column in columns}
            statements += comments_sql(kind.split()[0], name, f"{doc} ({what})", texts_shown)
    for statement in statements:
        con.execute(statement)
