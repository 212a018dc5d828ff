"""HOME/catalog.duckdb as its readers find it: read-only, a new file each time, its hash known."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.errors import FoleyError
from warehouse.files import file_crc, read_json, sync_folder, write_json

if TYPE_CHECKING:
    from warehouse.home import Home


def catalog_path(home: Path) -> Path:
    """Where the catalog of a home folder is, once it was published."""
    return home / "catalog.duckdb"


def published_state(home: Home) -> str | None:
    """State that the catalog holds, if it is, byte for byte, what was published."""
    target = catalog_path(home.home)
    sweep(target)
    try:
        note = read_json(_note(home))
        return note["state"] if note["crc32"] == file_crc(target) else None
    except (FoleyError, OSError, KeyError):
        return None


def swap_in(home: Home, built: Path, state: str) -> Path:
    """Put a catalog in the place of the one before; who has that open keeps it."""
    target, note = catalog_path(home.home), {"state": state, "crc32": file_crc(built)}
    built.chmod(0o444)  # for notebooks that forget read_only=True
    with open(built, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(built, target)
    sync_folder(target.parent)
    sweep(target)
    write_json(home.tmp, _note(home), note)
    return target


def sweep(catalog: Path) -> None:
    """Remove the log of a writer that was killed: with it, the catalog cannot be opened."""
    with suppress(OSError):  # absent, or this user may not: DuckDB then says what is wrong
        catalog.with_name(f"{catalog.name}.wal").unlink()


def _note(home: Home) -> Path:
    return home.home / "catalog.json"
