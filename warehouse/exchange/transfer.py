"""Copies of many files at once, what came of them, and whether small ones are whole."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from warehouse.files import make_folder, write_file

if TYPE_CHECKING:
    from warehouse.exchange.object_store import Store
    from warehouse.home import Home

_AT_ONCE = 8
_WAITS = (0.1, 0.4, 1.6)  # seconds


@dataclass
class Exchanged:
    """Files and folders that were copied, and their bytes.

    `damaged` were left out. `differing` are notes of what was planned and selected last that both
    sides changed: each keeps its own.
    """

    files: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list[str])
    differing: list[str] = field(default_factory=list[str])


class DamagedError(Exception):
    """What was copied is not what was written."""


def each(names: Sequence[str], copy: Callable[[str], int | None], done: Exchanged) -> None:
    """Copy several at once; `copy` returns bytes, 0 for what is there, None for what is damaged."""

    def tried(name: str) -> int | None:
        for wait in (*_WAITS, None):  # pyarrow tries again itself, but not after every fault
            try:
                return copy(name)
            except DamagedError:
                return None
            except OSError as exc:
                if wait is None or isinstance(exc, FileNotFoundError | PermissionError):
                    raise
                time.sleep(wait)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, size in zip(names, pool.map(tried, names), strict=True):
            done.files, done.bytes = done.files + bool(size), done.bytes + (size or 0)
            done.damaged += [name] if size is None and name not in done.damaged else []


def whole(name: str, content: bytes) -> bytes:
    """The content of a record or a note. Raises DamagedError where it is none."""
    try:
        if not (content.decode().strip() if name.endswith("/CURRENT") else json.loads(content)):
            raise DamagedError
    except ValueError:
        raise DamagedError from None
    return content


def here(home: Home, name: str) -> bytes | None:
    """A record or a note of this home, None where there is none that is whole."""
    try:
        return whole(name, (home.home / name).read_bytes())
    except (FileNotFoundError, DamagedError):
        return None


def there(store: Store, name: str) -> bytes:
    """A record or a note at an address. Raises DamagedError, and FileNotFoundError."""
    content = io.BytesIO()
    store.get(name, content)
    return whole(name, content.getvalue())


def take(home: Home, name: str, content: bytes) -> int:
    """Write a record or a note; returns its bytes."""
    place = make_folder((home.home / name).parent) / PurePosixPath(name).name
    write_file(home.tmp, lambda handle: handle.write(content), place)
    return len(content)
