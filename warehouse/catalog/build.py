"""Builds HOME/catalog.duckdb from the commits, datasets and records, and swaps it in.

One publisher at a time holds a file lock. Readers open the file read-only whenever they like and
see one state of the warehouse, entire: everything is copied into tables, so that no reader touches
a commit file. What was published before is copied, and what is new is added (contents.py).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.catalog.contents import FORMAT, Contents, Snapshot, can_grow, fill, make
from warehouse.catalog.dataset_rows import published_rows
from warehouse.catalog.published import catalog_path, published_state, swap_in
from warehouse.errors import FoleyError, clear_os_errors, was_interrupted
from warehouse.files import file_lock, scratch_folder, share_file
from warehouse.home import RECORDS
from warehouse.rows.live import Listings, literal, run_checked

if TYPE_CHECKING:
    from warehouse.home import Home

_log = logging.getLogger("foley.warehouse")
_BEFORE = "published.duckdb"


def publish(home: Home) -> Path:
    """Build the catalog and swap it in, unless nothing changed since the last time.

    Returns its path. Raises FoleyError when the disk is full or the home folder cannot be written;
    the old catalog then stays.
    """
    import duckdb

    target = catalog_path(home.home)
    with (
        file_lock(home.lock_path("publish")),
        clear_os_errors(f"write {target}"),
        scratch_folder(home.tmp) as folder,
    ):
        state = _state(home)
        before = published_state(home)
        if before == state:
            return target
        built, snapshot = folder / target.name, Snapshot.of(home)

        if before is not None:
            share_file(
                target, folder / _BEFORE
            )  # under a name of its own, which no reader has open

        def work(listings: Listings) -> None:
            _build(home, built, Contents(snapshot, listings))

        try:
            run_checked(home, snapshot.sources, work)
        except duckdb.Error as exc:
            raise FoleyError(f"cannot build the catalog: {exc}") from exc
        return swap_in(home, built, state)


def publish_if_possible(home: Home) -> bool:
    """Publish for work that is done and kept, whatever becomes of the catalog.

    What fails is tried once more, then said: the next publication has the news. Returns whether it
    was published.
    """
    for tries_left in (1, 0):
        try:
            publish(home)
        except Exception as exc:
            if was_interrupted(exc):
                raise
            if not tries_left:
                what = f"{type(exc).__name__}: {exc}"
                _log.warning("the catalog is as before, the next run publishes: %s", what)
        else:
            return True
    return False


def _state(home: Home) -> str:
    """Hash of the names and times of everything that the catalog is built from."""
    digest = hashlib.sha256(FORMAT.encode())
    for path in _inputs(home):
        with suppress(FileNotFoundError):  # compaction may just have removed it
            stat = path.stat()
            what = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            digest.update(f"{path}\x1f{what}\x1e".encode())
    return digest.hexdigest()


def _inputs(home: Home) -> Iterator[Path]:
    folders = ["commits/*/*", "commits/*/*/*", "datasets/*.json"]
    folders += ["datasets/*/dataset.json", "features/*/*.json"]
    for pattern in folders:
        yield from sorted(path for path in home.home.glob(pattern) if not path.is_dir())
    yield from home.record_files(*RECORDS)


def _build(home: Home, path: Path, contents: Contents) -> None:
    """Bring a copy of the catalog before up to date, or write one from nothing."""
    before = path.with_name(_BEFORE)
    if not (before.exists() and _written(home, path, before, contents)):
        _written(home, path, None, contents)


def _written(home: Home, path: Path, before: Path | None, contents: Contents) -> bool:
    """Write the catalog; False where the one before cannot grow to it."""
    import duckdb

    for left in path.parent.glob(f"{path.name}*"):  # by a build that failed
        left.unlink()
    if before:
        shutil.copyfile(before, path)
    options: dict[str, str | float | list[str]] = {"autoinstall_known_extensions": False}
    options["temp_directory"] = str(path.parent / "spill")
    if before:
        options["threads"] = 1  # for many small statements, which cost less so
    with duckdb.connect(config=options) as con:
        # In the first version's storage format, so that every DuckDB since can read it. What a
        # build that is killed leaves is thrown away, so it needs no log.
        how = "storage_version 'v1.0.0', recovery_mode no_wal_writes"
        con.execute(f"attach {literal(str(path))} as catalog ({how})")
        con.execute("use catalog")
        if before and not can_grow(con, contents):
            return False
        if not before:
            make(con)
            published_rows(con, path.with_name(_BEFORE))
        fill(con, home, contents)
        con.execute("checkpoint catalog")
    return True
