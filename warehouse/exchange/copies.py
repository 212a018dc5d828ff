"""Copies of what a warehouse holds in an object store, or wherever pyarrow opens an address.

What is copied never changes under its name, and commits of several homes add up: their ids hash
what went in, and no clock says which row of a clip counts. So no locks, renames or conditional
writes are needed there. A file is done when it is there with its size, what lists files comes after
them, and nothing is ever removed. A killed copy goes on where it was.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from warehouse.commits import Commit, footer, parse
from warehouse.datasets.check import check_folder, check_records
from warehouse.datasets.object_store import Store, clear_store_errors, offered, wanted_by
from warehouse.datasets.versions import NEWEST, list_datasets
from warehouse.errors import FoleyError
from warehouse.files import file_crc, make_folder, new_folder, write_file
from warehouse.rows.damage import sound

if TYPE_CHECKING:
    from warehouse.home import Home

#: Folders that come whole or not at all: their note, which lists the files or is of the only one.
_NOTES = {
    "datasets": "dataset.json",
    "features": "_features.json",
    "checkpoints": "checkpoint.json",
}
_FILES = ("commits/*/*/*.parquet", "datasets/*/*.parquet", "features/*/*.parquet")
BRIDGE = "bridge.safetensors"
_LAST = (f"checkpoints/*/{BRIDGE}", *(f"{kind}/*/{note}" for kind, note in _NOTES.items()))
#: What differs from home to home, and what never changes: taken where there is none.
_OWN = ("commits/*/*/stage.json", "commits/*/CURRENT", "datasets/*.json", "sources/*.json")
_RECORDS = ("evaluations/*.json", "sounds/*.json")
_AT_ONCE = 8
_WAITS = (0.1, 0.4, 1.6)  # seconds


@dataclass
class Exchanged:
    """Files and folders that were copied, their bytes, and those that were damaged."""

    files: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list[str])


def push(home: Home, address: str, only: Sequence[str] = ()) -> Exchanged:
    """Copy what is finished to an address.

    That is commits (damaged ones are set aside instead), dataset versions, feature sets, bridges,
    and records of evaluations and sounds; with `only` what starts with one of these paths alone.
    Raises FoleyError where the address cannot be reached or written, is a home, or where another
    version of a dataset has one's number there; and where there is nothing to copy.
    """
    store, done = Store(address), Exchanged()
    _refuse_homes(home, store)
    with clear_store_errors(address):
        there = store.sizes()
        _refuse_clashes(home, there, only)
        wanted = {
            pattern: [name for name in _names(home, pattern) if wanted_by(name, only)]
            for pattern in (*_FILES, *_LAST, *_RECORDS, *_OWN)
        }
        if only and not any(wanted.values()):
            raise FoleyError(
                f"there is nothing that starts with {' or '.join(only)} in {home.home}"
            )
        damaged = _damaged_folders(home, wanted, there)
        done.damaged += damaged
        for pattern, of_pattern in wanted.items():
            names = [name for name in of_pattern if name.rpartition("/")[0] not in damaged]
            changing = pattern in _OWN

            def copy(name: str, changing: bool = changing) -> int | None:
                commit = parse(home.home / name)
                try:
                    source = open(home.home / name, "rb")  # noqa: SIM115 (closed below)
                except FileNotFoundError:  # compaction may just have removed it
                    return 0
                with source:
                    size = os.fstat(source.fileno()).st_size
                    if not changing and there.get(name) == size:
                        return 0
                    if commit and not sound(home, [commit]):
                        return None
                    store.put(source, name)
                return size

            _each(names, copy, done)
    return done


def _damaged_folders(
    home: Home, wanted: Mapping[str, Sequence[str]], there: Mapping[str, int]
) -> list[str]:
    """Folders with files that are not there yet, of which one reads otherwise than written."""
    notes = [name for pattern in _LAST for name in wanted[pattern] if not name.endswith(BRIDGE)]
    found: list[str] = []
    for note in notes:
        folder = note.rpartition("/")[0]
        files = [n for names in wanted.values() for n in names if n.rpartition("/")[0] == folder]
        if all(there.get(name) == (home.home / name).stat().st_size for name in files):
            continue
        try:
            _check_folder(home.home / note)
        except _DamagedError:
            found.append(folder)
    return found


def _names(home: Home, pattern: str) -> list[str]:
    return [path.relative_to(home.home).as_posix() for path in sorted(home.home.glob(pattern))]


def _refuse_homes(home: Home, store: Store) -> None:
    """Raises FoleyError for an address that is this home, lies in it or around it, or is another.

    What is pushed would replace what homes change, under no lock of theirs.
    """
    if store.folder is None:
        return
    own = home.home.resolve()
    if own.is_relative_to(store.folder) or store.folder.is_relative_to(own):
        raise FoleyError(
            f"{store.address} is this home, or lies in it or around it: push elsewhere"
        )
    if (store.folder / "locks").is_dir():
        raise FoleyError(
            f"{store.address} is a home itself: run foley pull --home {store.folder} on what was "
            "pushed elsewhere"
        )


def pull(home: Home, address: str, only: Sequence[str] = ()) -> Exchanged:
    """Copy what was pushed to an address, but for what is here; see :func:`push`.

    Each file and folder is compared with its checksums before it is here. What was planned and
    selected last is taken over too, unless this home has commits or versions of its own.
    """
    store, done = Store(address), Exchanged()
    there = offered(store, only)
    with clear_store_errors(address):
        _refuse_clashes(home, there, only)
        _pull_commits(home, store, list(there), done)
        notes = [name for name in there if name.endswith(f"/{_NOTES.get(name.partition('/')[0])}")]
        _each(notes, lambda note: _pull_folder(home, store, note, there), done)
        own = [name for name in there if _is_record(name)]
        new = [n for n in own if not _reads(home.home / n) or _follows(home, n, there)]
        _each(new, lambda name: _write_note(home, store, name), done)
    return done


def _reads(path: Path) -> bool:
    """Whether a record or a note is there, whole."""
    try:
        _parse_note(path.name, path.read_bytes())
    except (OSError, _DamagedError):
        return False
    return True


def _parse_note(name: str, content: bytes) -> None:
    try:
        if not (content.decode().strip() if name == "CURRENT" else json.loads(content)):
            raise _DamagedError
    except ValueError:
        raise _DamagedError from None


def _write_note(home: Home, store: Store, name: str) -> int:
    """Take over a record or a note; returns 0 where the same is here already."""
    content = io.BytesIO()
    store.get(name, content)
    _parse_note(PurePosixPath(name).name, content.getvalue())
    place = make_folder((home.home / name).parent) / Path(name).name
    if place.is_file() and place.read_bytes() == content.getvalue():
        return 0
    write_file(home.tmp, lambda handle: handle.write(content.getvalue()), place)
    return len(content.getvalue())


def _each(names: Sequence[str], copy: Callable[[str], int | None], done: Exchanged) -> None:
    """Copy several at once; `copy` returns bytes, 0 for what is there, None for what is damaged."""

    def tried(name: str) -> int | None:
        for wait in (*_WAITS, None):  # pyarrow tries again itself, but not after every fault
            try:
                return copy(name)
            except _DamagedError:
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


def _pull_commits(home: Home, store: Store, names: Sequence[str], done: Exchanged) -> None:
    """Commits, compacted ones first, without those that a compacted one replaces."""
    commits = {name: commit for name in names if (commit := parse(home.home / name))}

    def copy(name: str) -> int:
        commit = commits[name]

        def check(handle: BinaryIO) -> None:
            size = handle.tell()
            if size != commit.bytes or commit.crc not in (None, file_crc(handle)):
                raise _DamagedError

        return _write(home, store, name, check)

    # First those that nothing there replaces; the others where one of these turns out damaged.
    for compacted, known in ((True, commits), (True, {}), (False, {})):
        replaced = _replaced(home, store, commits, [c.path for c in known.values()])
        new = {n: c for n, c in commits.items() if c.compacted == compacted and not c.path.exists()}
        _each([name for name, commit in new.items() if commit.path not in replaced], copy, done)


def _replaced(
    home: Home, store: Store, commits: Mapping[str, Commit], others: Sequence[Path]
) -> set[Path]:
    """Paths that compacted commits of this home, or others, replace, and those these replaced."""
    found: set[Path] = set()
    waiting = [*home.home.glob("commits/*/*/c*.parquet"), *others]
    waiting = [path for path in waiting if (commit := parse(path)) and commit.compacted]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(home.home).as_posix()
        try:
            if path.exists():
                note = footer(path)
            elif name in commits:
                with store.open(name) as handle:
                    note = footer(handle)
            else:
                continue
        except pa.ArrowInvalid:  # damaged: it replaces nothing, and its copy will not be taken
            continue
        replaces = [path.with_name(name) for name in note.get("replaces", [])]
        waiting += [path for path in replaces if (c := parse(path)) and c.compacted]
        found.update(replaces)
    return found


def _pull_folder(home: Home, store: Store, note: str, there: Mapping[str, int]) -> int:
    """A folder with all its files, in one step; returns their bytes, 0 where it is here."""
    folder = note.rpartition("/")[0]
    target = home.home / folder
    if target.exists():
        return 0
    names = [name for name in there if name.rpartition("/")[0] == folder]
    with new_folder(home.tmp, target) as aside:
        for name in names:
            with open(aside / Path(name).name, "wb") as handle:
                store.get(name, handle)
                handle.flush()
                os.fsync(handle.fileno())
        _check_folder(aside / Path(note).name)
    return sum(there[name] for name in names)


def _check_folder(note: Path) -> None:
    bridge = note.name == _NOTES["checkpoints"]
    problems = check_records([note], deep=True) if bridge else check_folder(note, deep=True)
    if any(True for _ in problems):
        raise _DamagedError


def _write(home: Home, store: Store, name: str, check: Callable[[BinaryIO], None]) -> int:
    place = make_folder((home.home / name).parent) / Path(name).name

    def checked(handle: BinaryIO) -> Path:
        check(handle)
        return place

    return write_file(home.tmp, lambda handle: store.get(name, handle), checked).stat().st_size


def _is_record(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in (*_RECORDS, *_OWN)) and not any(
        name.endswith(f"/{note}") for note in _NOTES.values()
    )


def _follows(home: Home, name: str, there: Mapping[str, int]) -> bool:
    """Whether a note of what was planned or selected last is taken over from there."""
    path = home.home / name
    if path.name == "CURRENT":
        commits = (path.parent / path.read_text()).glob("*.parquet")
        return all(c.relative_to(home.home).as_posix() in there for c in commits)
    if name == NEWEST:
        return all(f"datasets/{d.version}/dataset.json" in there for d in list_datasets(home))
    return False


def _refuse_clashes(home: Home, there: Iterable[str], only: Sequence[str]) -> None:
    """Raises FoleyError where here and there two versions of a dataset have one number."""
    here = {d.version.rpartition("-")[0]: d.version for d in list_datasets(home)}
    for name in there:
        kind, _, version = name.removesuffix("/dataset.json").partition("/")
        other = here.get(version.rpartition("-")[0], version)
        clash = kind == "datasets" and name.endswith("/dataset.json") and other != version
        if clash and (wanted_by(name, only) or wanted_by(f"datasets/{other}", only)):
            advice = "select in one home and pull in the others, or select under another name"
            raise FoleyError(f"datasets {other} here and {version} there clash: {advice}")


class _DamagedError(Exception):
    """What was copied is not what was written."""
