"""Copies of what a warehouse holds in an object store, or wherever pyarrow opens an address.

What is copied never changes under its name, but for a few notes (notes.py), and commits of several
homes add up: their ids hash what went in, and no clock says which row of a clip counts. So no
locks, renames or conditional writes are needed there. A file is done when it is there with its
size, what lists files comes after them, and nothing is ever removed. A killed copy goes on where it
was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from warehouse.commits import Commit, footer, parse
from warehouse.datasets.check import check_folder, check_records
from warehouse.datasets.versions import list_datasets
from warehouse.errors import FoleyError
from warehouse.exchange.notes import NOTES, is_note, pull_notes, push_notes
from warehouse.exchange.object_store import Store, clear_store_errors, offered, wanted_by
from warehouse.exchange.transfer import DamagedError, Exchanged, each, here, take
from warehouse.exchange.transfer import there as whole_there
from warehouse.files import file_crc, make_folder, new_folder, write_file
from warehouse.rows.damage import sound

if TYPE_CHECKING:
    from warehouse.home import Home

#: Folders that come whole or not at all: their note, which lists the files or is of the only one.
_LISTS = {
    "datasets": "dataset.json",
    "features": "_features.json",
    "checkpoints": "checkpoint.json",
}
_FILES = ("commits/*/*/*.parquet", "datasets/*/*.parquet", "features/*/*.parquet")
BRIDGE = "bridge.safetensors"
_LAST = (f"checkpoints/*/{BRIDGE}", *(f"{kind}/*/{note}" for kind, note in _LISTS.items()))
_RECORDS = ("evaluations/*.json", "sounds/*.json")


def push(home: Home, address: str, only: Sequence[str] = (), verify: bool = False) -> Exchanged:
    """Copy what is finished to an address.

    That is commits (damaged ones are set aside instead), dataset versions, feature sets, bridges,
    and records of evaluations and sounds; with `only` what starts with one of these paths alone.
    With `verify` what is there is read, and copied again where it is not what is here.
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
            for pattern in (*_FILES, *_LAST, *_RECORDS, *NOTES)
        }
        if only and not any(wanted.values()):
            raise FoleyError(
                f"there is nothing that starts with {' or '.join(only)} in {home.home}"
            )
        notes = [name for pattern in NOTES for name in wanted.pop(pattern)]
        if verify:
            there = _as_here(home, store, there)
        others = _others(home, store, wanted, there, done)
        for of_pattern in wanted.values():
            left_out = others.union(done.damaged)
            names = [name for name in of_pattern if _folder(name) not in left_out]

            def copy(name: str) -> int | None:
                commit = parse(home.home / name)
                try:
                    source = open(home.home / name, "rb")  # noqa: SIM115 (closed below)
                except FileNotFoundError:  # compaction may just have removed it
                    return 0
                with source:
                    size = os.fstat(source.fileno()).st_size
                    if there.get(name) == size:
                        return 0
                    if commit and not sound(home, [commit]):
                        return None
                    store.put(source, name)
                return size

            each(names, copy, done)
        push_notes(home, store, notes, done)
    return done


def _as_here(home: Home, store: Store, there: Mapping[str, int]) -> dict[str, int]:
    """What is there with the content that it has here, or is not here."""
    same = {name: size for name, size in there.items() if not (home.home / name).is_file()}

    def compare(name: str) -> int:
        if store.crc(name) == file_crc(home.home / name):
            same[name] = there[name]
        return 0

    each([name for name in there if name not in same and not is_note(name)], compare, Exchanged())
    return same


def _others(
    home: Home,
    store: Store,
    wanted: Mapping[str, Sequence[str]],
    there: Mapping[str, int],
    done: Exchanged,
) -> set[str]:
    """Folders that another home put there in other files, which hold the same under that name.

    Notes in `done` those that are damaged here and not there yet.
    """
    others: set[str] = set()
    files: dict[str, list[str]] = {}
    for name in (name for names in wanted.values() for name in names):
        files.setdefault(_folder(name), []).append(name)
    lists = {_folder(name): name for names in wanted.values() for name in names if _is_list(name)}

    def look(folder: str) -> int:
        if all(there.get(name) == (home.home / name).stat().st_size for name in files[folder]):
            return 0
        mine = here(home, lists[folder])
        with suppress(FileNotFoundError, DamagedError):
            theirs = whole_there(store, lists[folder])
            if mine and json.loads(mine).get("shards") != json.loads(theirs).get("shards"):
                others.add(folder)
                return 0
        _check_folder(home.home / lists[folder])
        return 0

    each(list(lists), look, done)
    return others


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_list(name: str) -> bool:
    kind, _, rest = name.partition("/")
    return rest.count("/") == 1 and rest.endswith(f"/{_LISTS.get(kind)}")


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
    selected last is taken over too, unless this home has changed it itself.
    """
    store, done = Store(address), Exchanged()
    there = offered(store, only)
    with clear_store_errors(address):
        _refuse_clashes(home, there, only)
        _pull_commits(home, store, list(there), done)
        lists = [name for name in there if _is_list(name)]
        each(lists, lambda name: _pull_folder(home, store, name, there), done)
        new = [name for name in there if _is_record(name) and here(home, name) is None]
        each(new, lambda name: take(home, name, whole_there(store, name)), done)
        pull_notes(home, store, [name for name in there if is_note(name)], done)
    return done


def _is_record(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in _RECORDS)


def _pull_commits(home: Home, store: Store, names: Sequence[str], done: Exchanged) -> None:
    """Commits, compacted ones first, without those that a compacted one replaces."""
    commits = {name: commit for name in names if (commit := parse(home.home / name))}

    def copy(name: str) -> int:
        commit = commits[name]

        def check(handle: BinaryIO) -> None:
            size = handle.tell()
            if size != commit.bytes or commit.crc not in (None, file_crc(handle)):
                raise DamagedError

        return _write(home, store, name, check)

    # First those that nothing there replaces; the others where one of these turns out damaged.
    for compacted, known in ((True, commits), (True, {}), (False, {})):
        replaced = _replaced(home, store, commits, [c.path for c in known.values()])
        new = {n: c for n, c in commits.items() if c.compacted == compacted and not c.path.exists()}
        each([name for name, commit in new.items() if commit.path not in replaced], copy, done)


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
    bridge = note.name == _LISTS["checkpoints"]
    problems = check_records([note], deep=True) if bridge else check_folder(note, deep=True)
    if any(True for _ in problems):
        raise DamagedError


def _write(home: Home, store: Store, name: str, check: Callable[[BinaryIO], None]) -> int:
    place = make_folder((home.home / name).parent) / Path(name).name

    def checked(handle: BinaryIO) -> Path:
        check(handle)
        return place

    return write_file(home.tmp, lambda handle: store.get(name, handle), checked).stat().st_size


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
