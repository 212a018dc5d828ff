"""Registered sources: the folders that a warehouse's clips come from, and what of them is new.

A source is a record, HOME/sources/NAME.json. Its name is the first part of its clips' ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os.path import relpath
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.curation.sources import SCHEMA, folder_source, no_media, source_root
from pipeline.media import printable
from warehouse import FoleyError, IngestResult, Warehouse
from warehouse.commits import CLIPS_DESCRIPTOR
from warehouse.files import file_lock
from warehouse.rows.live import Listings, clips_sql, literal, query_live, run_checked, sources

FOLDER = "folder"


@dataclass(frozen=True)
class Source:
    """A folder of clips."""

    name: str
    kind: str  # folder, kinetics700, or list (of addresses, downloaded)
    place: Path
    scanned_at: str | None = None
    error: str | None = None  # why the last scan, which began then, took nothing
    removed: bool = False  # and kept, so that its clips stay out of what is selected


_SOURCE = TypeAdapter(Source)


@dataclass(frozen=True)
class Scan:
    """What a scan brought in, and the files that it passed over, as (where, why)."""

    result: IngestResult
    skipped: tuple[tuple[str, str], ...]


def registered(wh: Warehouse, names: Sequence[str] = ()) -> list[Source]:
    """Registered sources by name: those named, or all. Raises FoleyError for one that is not."""
    known = {source.name: source for source in _every(wh) if not source.removed}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none yet, add one by foley source add FOLDER"
            raise FoleyError(f"no source {name!r} in {wh.home}; there are: {there}")
    return [known[name] for name in names or known]


def register(wh: Warehouse, folder: Path, name: str | None = None, kind: str = FOLDER) -> Source:
    """Register a folder under its own name or the one given; raises FoleyError as `check` does."""
    with file_lock(wh.lock_path("sources")):
        source = check(wh, folder, name, kind)
        if source not in _every(wh):
            _write(wh, source)
    return source


def check(wh: Warehouse, folder: Path, name: str | None = None, kind: str = FOLDER) -> Source:
    """The source that `register` would keep.

    Raises FoleyError where there is no such folder, the name is another source's, or the folder's
    clips would come in twice.
    """
    place = source_root(folder)
    every = {source.name: source for source in sorted(_every(wh), key=lambda one: one.removed)}
    same = (one for one in every.values() if one.place == place and name in (None, one.name))
    known = next(same, None)
    for other in every.values():
        if other != known and not other.removed and _overlap(place, other.place):
            raise FoleyError(
                f"{printable(place)} shares clips with source {other.name} "
                f"({printable(other.place)}), where they would come in twice: "
                f"run foley curate --sources {other.name}, or foley source remove {other.name}"
            )
    if known:
        return replace(known, removed=False)
    name = name or place.name or "clips"
    wh.record_path("sources", name)  # raises FoleyError for what is no name
    if "," in name:
        raise FoleyError(f"{name!r} cannot name a source: leave the comma out, with --name NAME")
    taken = every.get(name)
    if not _moved(wh, taken, place) if taken else _has_others(wh, name, place):
        where = f" ({printable(taken.place)}{', removed' * taken.removed})" if taken else ""
        raise FoleyError(
            f"source {name} is there already{where}, with other clips than {printable(place)}: "
            f"give this folder a name of its own, --name {place.parent.name or 'other'}-{name}"
        )
    return Source(name, kind, place)


def remove(wh: Warehouse, name: str) -> None:
    """Scan and select a source no more; raises FoleyError where there is none of that name."""
    with file_lock(wh.lock_path("sources")):
        (source,) = registered(wh, [name])
        _write(wh, replace(source, removed=True))


def scan_source(
    wh: Warehouse, source: Source, progress: Callable[[int, int], None] | None = None
) -> Scan:
    """Bring in what is new or changed of a source, and note when.

    A clip whose file is gone becomes one that cannot be read. Raises FoleyError, which is noted
    too, for a folder that is gone or holds no clip any more: those known stay as they are.
    """
    began = datetime.now(UTC).isoformat()
    try:
        listing = folder_source(source.place, source.name)
        clips = _with_known(wh, source, listing.clips)
        if clips.num_rows and not listing.clips.num_rows:
            raise no_media(source.place)
        result = wh.ingest(clips, progress)
    except FoleyError as error:
        _note(wh, source.name, began, str(error))
        raise
    _note(wh, source.name, began, None)
    return Scan(result, listing.skipped)


def clips_of(wh: Warehouse, names: Sequence[str] = ()) -> list[str] | None:
    """Ids of the clips of these sources, by default of all that were not removed; None for all.

    Raises FoleyError for a source that is not registered.
    """
    registered(wh, names)
    removed = [source.name for source in _every(wh) if source.removed]
    if not names and not removed:
        return None
    listed = f"{'in' if names else 'not in'} ({', '.join(map(literal, names or removed))})"
    rows = _clips(wh, f"select clip_id from clips where source {listed} order by clip_id")
    return rows["clip_id"].to_pylist()


def newest_clips(wh: Warehouse) -> dict[str, datetime]:
    """When a readable clip of each source was last new or changed."""
    sql = "select source, max(committed_at) as newest from clips where status = 'passed' group by 1"
    return {row["source"]: row["newest"] for row in _clips(wh, sql).to_pylist()}


def _with_known(wh: Warehouse, source: Source, listed: pa.Table) -> pa.Table:
    """The clips of a listing, and those known of the source before that are not in it.

    A file keeps the id that it had, also where one of the same name but for its extension came.
    """
    columns = ", ".join(SCHEMA.names)

    def work(listings: Listings) -> pa.Table:
        with wh.cursor() as con:
            con.register("listed", listed)
            clips = clips_sql(con, listings["clips"], SCHEMA.names[1:])
            return con.sql(f"""
                with known as (from {clips} where source = {literal(source.name)}),
                kept as (
                    select l.* replace (
                        coalesce(k.clip_id, l.clip_id) as clip_id,
                        if(l.source_video = l.clip_id, coalesce(k.clip_id, l.clip_id),
                           l.source_video) as source_video)
                    from listed l left join known k on k.path = l.path)
                select {columns} from kept union all
                select {columns} from known anti join kept using (clip_id)""").to_arrow_table()

    return run_checked(wh, sources(), work)


def _has_others(wh: Warehouse, name: str, place: Path) -> bool:
    """Whether clips came in under a name that is not registered, none of them from this folder."""
    inside = f"bool_or(starts_with(path, {literal(f'{place}/')}))"
    rows = _clips(wh, f"select {inside} as inside from clips where source = {literal(name)}")
    return rows["inside"][0].as_py() is False


def _moved(wh: Warehouse, source: Source, place: Path) -> bool:
    """Whether all clips of a source that was removed are in this folder now.

    Under its name, those that are not would come back.
    """
    if not source.removed:
        return False
    sql = f"select path from clips where source = {literal(source.name)} and status = 'passed'"
    paths = map(Path, _clips(wh, sql)["path"].to_pylist())
    away = (path for path in paths if not path.is_relative_to(place))
    return all((place / relpath(path, source.place)).exists() for path in away)


def _clips(wh: Warehouse, sql: str) -> pa.Table:
    """Rows of a query on `clips`, the newest row of every clip."""
    return query_live(
        wh,
        CLIPS_DESCRIPTOR,
        [*SCHEMA.names[1:], "committed_at"],
        lambda live: f"with clips as (from {live}) {sql}",
    )


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _every(wh: Warehouse) -> list[Source]:
    return [_SOURCE.validate_python(record) for record in wh.records("sources")]


def _write(wh: Warehouse, source: Source) -> None:
    wh.write_record("sources", source.name, _SOURCE.dump_python(source, mode="json"))


def _note(wh: Warehouse, name: str, began: str, error: str | None) -> None:
    """Note a scan; a source that was removed meanwhile stays removed."""
    with file_lock(wh.lock_path("sources")):
        source = _SOURCE.validate_python(wh.record("sources", name))
        _write(wh, replace(source, scanned_at=began, error=error))
