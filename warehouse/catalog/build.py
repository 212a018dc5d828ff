"""The publisher: builds HOME/catalog.duckdb from the commits, datasets and records, and swaps it in.

One publisher at a time holds a file lock; readers open the file read-only whenever they like and
see one state of the warehouse, entire. Everything is copied into tables, so a reader never touches
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

from warehouse.catalog.tables import STAGE_COLUMNS, TABLES, VIEWS, comment_sql
from warehouse.commits import Descriptor, Listing
from warehouse.datasets.versions import MEMBERS, list_datasets
from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import file_lock, scratch_folder, sync_folder
from warehouse.rows.live import (
    STAGE_ORDER,
    clips_sql,
    literal,
    present,
    present_input,
    quote,
    run_checked,
    scan,
    sql_type,
    value,
)
from warehouse.schema import CLIPS, MAX_ATTEMPTS, SPINE, comment_of, is_array

if TYPE_CHECKING:
    import duckdb

    from warehouse.home import Home


def publish(wh: Home) -> Path:
    """Build the catalog and swap it in; does nothing when nothing changed since the last time. Returns its path.

    Raises FoleyError when the disk is full or the home folder cannot be written; the old catalog
    then stays.
    """
    import duckdb

    target = wh.home / "catalog.duckdb"
    with (
        file_lock(wh.lock_path("publish")),
        clear_os_errors(f"write {target}"),
        scratch_folder(wh.tmp) as folder,
    ):
        state = _state(wh)
        if _published_state(target) == state:
            return target
        built = folder / "catalog.duckdb"
        try:
            run_checked(wh, _sources(wh), lambda listings: _build(wh, built, listings, state))
        except duckdb.Error as exc:
            raise FoleyError(f"cannot build the catalog: {exc}") from exc
        with open(built, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(built, target)
        sync_folder(target.parent)
    return target


def _sources(wh: Home) -> dict[str, tuple[str, str]]:
    """Everything to be copied.

    Clips, then every fingerprint of every stage, upstreams before their users.
    """
    found = {"clips": ("clips", "source")}
    for stage in wh.stages():
        found.update({f"{stage}/{fp}": (stage, fp) for fp in wh.fingerprints(stage)})
    return found


def _state(wh: Home) -> str:
    """Hash of the names and times of everything that the catalog is built from."""
    digest = hashlib.sha256(b"2")  # another number for another catalog of the same files
    for path in _inputs(wh):
        stat = path.stat() if path.exists() else None
        digest.update(
            f"{path}\x1f{stat and (stat.st_size, stat.st_mtime_ns, stat.st_ino)}\x1e".encode()
        )
    return digest.hexdigest()


def _inputs(wh: Home) -> Iterator[Path]:
    for pattern in (
        "commits/*/*",
        "commits/*/*/*",
        "datasets/*/dataset.json",
        "features/*/_features.json",
    ):
        yield from sorted(path for path in wh.home.glob(pattern) if not path.is_dir())
    for pattern in (
        "checkpoints/*/checkpoint.json",
        "evaluations/*.json",
        "sounds/*.json",
        "runs/*.json",
    ):
        yield from sorted(wh.home.glob(pattern))


def _published_state(target: Path) -> str | None:
    import duckdb

    if not target.exists():
        return None
    try:
        with duckdb.connect(str(target), read_only=True) as con:
            return value(con, "select value from meta where key = 'state'")
    except duckdb.Error:
        return None


def _build(wh: Home, path: Path, listings: Mapping[str, Listing], state: str) -> None:
    import duckdb

    path.unlink(missing_ok=True)
    with duckdb.connect(str(path), config={"autoinstall_known_extensions": False}) as con:
        con.execute("create schema history")
        con.execute("create table meta (key varchar, value varchar)")
        con.execute("insert into meta values ('state', ?), ('home', ?)", [state, str(wh.home)])
        _clips(con, listings["clips"])
        stages = wh.stages()
        reads = {name for stage in stages.values() for name in stage.reads}
        con.register("present", present(wh, listings["clips"], reads))
        for stage in stages:
            _stage(con, wh, stage, listings)
        con.execute("begin")  # hundreds of small statements: one flush instead of one each
        _tables(con, wh, stages)
        _derived(con, stages, listings)
        _comment(con, stages)
        con.execute("commit")
        con.unregister("present")
        con.execute("checkpoint")


def _clips(con: duckdb.DuckDBPyConnection, listing: Listing) -> None:
    names = [*CLIPS.names, "error", "message", "committed_at", "generation", "commit"]
    columns = ", ".join(quote(name) for name in ["clip_id", "status", *names])
    con.execute(f"create table clips as select {columns} from {clips_sql(con, listing, names)}")


def _stage(
    con: duckdb.DuckDBPyConnection, wh: Home, stage: str, listings: Mapping[str, Listing]
) -> None:
    """Copy all fingerprints of a stage into history.<stage>, and show the live rows of the current one as a view."""
    parts: list[str] = []
    for fingerprint in wh.fingerprints(stage):
        current = fingerprint == wh.current(stage)
        listing = listings[f"{stage}/{fingerprint}"]
        parts.append(_history_sql(con, wh.descriptor(stage, fingerprint), listing, current))
    own = wh.stages()[stage].columns
    con.execute(f"create table history.{quote(stage)} as {' union all by name '.join(parts)}")
    shown = ["clip_id", "status", "reason", *(f.name for f in own if not is_array(f))]
    shown += ["error", "message", "attempt", "seconds", "committed_at", "commit", "fingerprint"]
    columns = ", ".join(quote(name) for name in shown)
    con.execute(
        f"create view {quote(stage)} as select {columns} from history.{quote(stage)} where live and current"
    )


def _history_sql(
    con: duckdb.DuckDBPyConnection, descriptor: Descriptor, listing: Listing, current: bool
) -> str:
    """SQL of all rows of a fingerprint.

    `live` marks the best row of every input that a clip has now.
    """
    own = {f.name: sql_type(f.type) for f in descriptor.columns if not is_array(f)}
    shown = [name for name in SPINE.names if name != "input"]
    columns = [f"r.{quote(n)}" for n in shown] + [
        f"r.{quote(n)}::{t} as {quote(n)}" for n, t in own.items()
    ]
    now = f"(select {present_input(descriptor.reads)} as input from present p)"
    twice = f"(select count(*) <> count(distinct input) from {scan(listing.files, ['input'])})"
    best = (
        f" and row_number() over (partition by r.input order by {STAGE_ORDER}) = 1"
        if value(con, f"select {twice}")
        else ""
    )
    return (
        f"select {', '.join(columns)}, {literal(descriptor.fingerprint)} as fingerprint, {current} as current, "
        f"c.input is not null{best} as live "
        f"from {scan(listing.files, [*SPINE.names, *own])} r left join {now} c on r.input = c.input"
    )


def _tables(con: duckdb.DuckDBPyConnection, wh: Home, stages: Mapping[str, Descriptor]) -> None:
    """Small tables: fingerprints, datasets with their members, features, and the JSON records."""
    fingerprints = [wh.descriptor(stage, fp) for stage in stages for fp in wh.fingerprints(stage)]
    current = {(d.stage, d.fingerprint) for d in stages.values()}
    rows = [asdict(d) | {"current": (d.stage, d.fingerprint) in current} for d in fingerprints]
    _table(con, "fingerprints", rows)
    _table(
        con,
        "datasets",
        [asdict(d) | d.counts | d.diff | {"path": str(d.path)} for d in list_datasets(wh)],
    )
    for kind in ("checkpoints", "evaluations", "runs"):
        _table(con, kind, [record | {"record": record} for record in wh.records(kind)])
    features = [json.loads(p.read_text()) | {"path": str(p.parent)} for p in _feature_files(wh)]
    _table(con, "generated", [record | {"record": record} for record in wh.records("sounds")])
    _table(con, "features", [f | {"bytes": sum(s["bytes"] for s in f["shards"])} for f in features])
    _members(con, wh)


def _feature_files(wh: Home) -> list[Path]:
    return sorted((wh.home / "features").glob("*/_features.json"))


def _table(con: duckdb.DuckDBPyConnection, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Create one of TABLES and fill it; a value that is no text or number goes in as JSON."""
    _, columns = TABLES[name]
    con.execute(
        f"create table {name} ({', '.join(f'{quote(c)} {type_}' for c, (type_, _) in columns.items())})"
    )
    marks = ", ".join(f"try_cast(? as {type_})" for type_, _ in columns.values())
    for row in rows:
        values = [_cell(row.get(column), type_) for column, (type_, _) in columns.items()]
        con.execute(f"insert into {name} values ({marks})", values)


def _cell(value: Any, type_: str) -> Any:
    if value is None or (isinstance(value, str | int | float) and type_ != "JSON"):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def _members(con: duckdb.DuckDBPyConnection, wh: Home) -> None:
    parts = [
        f"select {literal(d.version)} as version, * from read_parquet({literal(str(d.path / 'members.parquet'))})"
        for d in list_datasets(wh)
    ]
    empty = ", ".join(f"null::{sql_type(f.type)} as {quote(f.name)}" for f in MEMBERS)
    parts.append(f"select null::varchar as version, {empty} where false")
    con.execute(f"create table dataset_members as {' union all '.join(parts)}")


def _derived(
    con: duckdb.DuckDBPyConnection,
    stages: Mapping[str, Descriptor],
    listings: Mapping[str, Listing],
) -> None:
    """Tables and views computed from the others."""
    _union(con, "funnel", [_funnel_sql(i, d) for i, d in enumerate(stages.values(), 1)])
    _union(con, "failures", [_failures_sql(stage) for stage in stages])
    _union(
        con, "commits", [_commits_sql(key, found) for key, found in listings.items() if "/" in key]
    )
    sounds = [_sounds_sql(d) for d in stages.values() if "sound_sha256" in d.columns.names]
    _union(con, "sounds", [*sounds, _GENERATED])
    for name, (sql, _, _) in VIEWS.items():
        con.execute(f"create view {name} as {sql}")


def _union(con: duckdb.DuckDBPyConnection, name: str, parts: Sequence[str]) -> None:
    _, columns = TABLES[name]
    con.execute(
        f"create table {name} ({', '.join(f'{quote(c)} {type_}' for c, (type_, _) in columns.items())})"
    )
    for part in parts:
        con.execute(f"insert into {name} by name {part}")


def _funnel_sql(position: int, descriptor: Descriptor) -> str:
    stage = quote(descriptor.stage)
    up = " ".join(
        f"semi join (from {quote(u)} where status = 'passed') using (clip_id)"
        for u in descriptor.upstream
    )
    counts = ", ".join(
        f"count(*) filter (s.status = '{s}') as {s}" for s in ("passed", "rejected", "failed")
    )
    return (
        f"select {position} as position, {literal(descriptor.stage)} as stage, "
        f"{literal(descriptor.fingerprint)} as fingerprint, count(*) as reached, {counts}, "
        f"count(*) filter (s.status = 'failed' and s.attempt >= {MAX_ATTEMPTS}) as quarantined, "
        "count(*) filter (s.status is null or s.status = 'released') as waiting "
        f"from (from clips {up} where status = 'passed') c left join {stage} s using (clip_id)"
    )


def _failures_sql(stage: str) -> str:
    return (
        f"select {literal(stage)} as stage, s.clip_id, s.error, s.message, s.attempt, s.attempt >= {MAX_ATTEMPTS} as "
        f"quarantined, s.committed_at, c.path, c.url from {quote(stage)} s join clips c using (clip_id) "
        "where s.status = 'failed'"
    )


def _commits_sql(key: str, listing: Listing) -> str:
    stage, _, fingerprint = key.partition("/")
    counts = ", ".join(
        f"count(*) filter (status = '{s}') as {s}" for s in ("passed", "rejected", "failed")
    )
    rows = scan(listing.files, ["commit", "status", "seconds", "committed_at"], places=True)
    return (
        f'select "commit", {literal(stage)} as stage, {literal(fingerprint)} as fingerprint, count(*) as clips, '
        f"{counts}, sum(seconds) as seconds, max(committed_at) as committed_at, filename as file from {rows} "
        'group by "commit", filename'
    )


# sounds of `foley generate`: of a clip, where the video is the file of one
_GENERATED = """
select g.sound, 'generate' as stage, min(c.clip_id) as clip_id, g.checkpoint
from generated g left join clips c on c.sha256 = g.video_sha256 group by g.sound, g.checkpoint
"""


def _sounds_sql(descriptor: Descriptor) -> str:
    return (
        f"select h.sound_sha256 as sound, {literal(descriptor.stage)} as stage, h.fingerprint, h.clip_id, "
        "coalesce(json_extract_string(f.settings, '$.checkpoint'), f.model_revision) as checkpoint "
        f"from history.{quote(descriptor.stage)} h join fingerprints f on f.fingerprint = h.fingerprint "
        f"and f.stage = {literal(descriptor.stage)} where h.live and h.status = 'passed'"
    )


def _comment(con: duckdb.DuckDBPyConnection, stages: Mapping[str, Descriptor]) -> None:
    """COMMENT on everything: from catalog_schema, and for stages from their own columns."""
    for statement in comment_sql():
        con.execute(statement)
    spine = {f.name: comment_of(f) for f in SPINE} | STAGE_COLUMNS
    for stage, descriptor in stages.items():
        texts = spine | {f.name: comment_of(f) or f.name for f in descriptor.columns}
        doc = descriptor.doc or f"stage {stage}"
        for prefix, kind, what in (
            ("main", "view", "live rows, current settings"),
            ("history", "table", "every row"),
        ):
            name = f"{prefix}.{quote(stage)}"
            con.execute(f"comment on {kind} {name} is {literal(f'{doc} ({what})')}")
            for column in con.execute(f"describe {name}").fetchall():
                con.execute(
                    f"comment on column {name}.{quote(column[0])} is {literal(texts.get(column[0], column[0]))}"
                )
