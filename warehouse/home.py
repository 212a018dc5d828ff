"""A home folder: its paths, locks, commits and records, on which everything else here is built."""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.commits import CLIPS_DESCRIPTOR, CommitListing, Descriptor, listing, write_commit
from warehouse.errors import FoleyError
from warehouse.files import (
    Json,
    hold_folder,
    is_same,
    make_folder,
    read_json,
    use_file,
    write_file,
    write_json,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Files of the records (JSON objects) of each kind, under its folder.
RECORDS = {
    "checkpoints": "*/checkpoint.json",
    "evaluations": "*.json",
    "sounds": "*.json",
    "runs": "*.json",
    "sources": "*.json",
    "health": "*.json",
}
_log = logging.getLogger("foley.warehouse")
_MOUNTS = Path("/proc/self/mountinfo")
#: Programs that show an object store as a folder; a mount's type or its source names them.
_OBJECT_STORES = frozenset(
    {
        "blobfuse",
        "blobfuse2",
        "cosfs",
        "gcsfuse",
        "geesefs",
        "goofys",
        "mountpoint-s3",
        "obsfs",
        "ossfs",
        "rclone",
        "s3fs",
        "yas3fs",
    }
)
_FOLDERS = ("clips", "commits", "datasets", "features", *RECORDS, "reports", "locks", "tmp")


def home_folder(given: str | Path | None = None) -> Path:
    """The folder with all state, absolute: the one given, else FOLEY_HOME, else ~/.foley."""
    return Path(given or os.environ.get("FOLEY_HOME") or "~/.foley").expanduser().absolute()


def _check_mount(home: Path) -> None:
    """Refuse a file system on which a home would be harmed without a word.

    Raises FoleyError for NFS whose locks no other machine sees, and for an object store as a
    folder: it has no locks between machines, and renames are copies.
    """
    if not _MOUNTS.exists():
        return
    mounts: dict[Path, list[str]] = {}
    for line in _MOUNTS.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        mounts[Path(place)] = [*after.split(" "), "", ""]
    home = home.resolve()  # what a link leads to is what counts
    found = next((p for p in (home, *home.parents) if p in mounts), None)
    kind, source, options = mounts[found][:3] if found else ["", "", ""]
    local = [o for o in options.split(",") if o in ("nolock", "local_lock=all", "local_lock=flock")]
    what = "cannot hold a home of foley"
    if kind.startswith("nfs") and local:
        advice = f"mount it without {', '.join(local)}"
        raise FoleyError(f"{found} {what}: its locks stay on this machine; {advice}")
    # "fuse.s3fs bucket", "fuse mountpoint-s3", "fuse goofys#bucket", or the name alone
    if _OBJECT_STORES & {kind.removeprefix("fuse."), source.partition("#")[0]}:
        advice = "choose a local --home, and foley push and pull"
        raise FoleyError(f"{found} {what}: it is an object store ({kind} {source}); {advice}")


@cache
def _shared(kind: type[Home], home: Path) -> Home:
    """The one that every task of a process is given, with what tasks before have found out."""
    return kind(home)


class Home:
    """Commits, datasets, features and records under one folder on one machine.

    Safe to use from several threads and processes at once, killed at any moment. Pickles as its
    home folder, and is one and the same wherever that arrives in a process.
    """

    def __init__(self, home: str | Path) -> None:
        """Open, and create where needed, the folders under `home`.

        Raises FoleyError when that is not allowed.
        """
        self.home = Path(home).expanduser().absolute()
        #: False for somebody who may only read: nothing is created then.
        self.writable = not self.home.is_dir() or os.access(self.home, os.W_OK)
        if self.writable:
            _check_mount(self.home)
        for name in _FOLDERS:
            self.folder(name)
        self.tmp = self.home / "tmp"
        self._database: duckdb.DuckDBPyConnection | None = None
        self._guard = threading.Lock()
        #: Folders of the fingerprints that were planned here, held.
        self._plans: dict[Path, int] = {}
        #: Last result of rows.live.present: (clips' commits, columns, table).
        self.present: tuple[CommitListing, frozenset[str], pa.Table] | None = None
        #: Commits that this process looked at, and whether it reads them: see rows.damage.
        self.sound: dict[Path, bool] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return _shared, (type(self), self.home)

    def folder(self, name: str) -> Path:
        """Path of one of the folders under home, created when absent."""
        return make_folder(self.home / name) if self.writable else self.home / name

    def lock_path(self, name: str) -> Path:
        """File that `file_lock` locks for a named job."""
        return self.home / "locks" / f"{name}.lock"

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection of its own over an empty database in memory; use it in a `with`."""
        import duckdb

        options: dict[str, str | float | list[str]] = {"autoinstall_known_extensions": False}
        options["temp_directory"] = ""
        with self._guard:
            if self._database is None:
                self._database = duckdb.connect(config=options)
            return self._database.cursor()

    def forget_database(self) -> None:
        """Have the next cursor open a new database, after an error that ended the old one."""
        with self._guard:
            self._database = None

    # commits --------------------------------------------------------------------------------------

    def commits_folder(self, stage: str, fingerprint: str) -> Path:
        """Folder of a stage's commits under a fingerprint."""
        return self.home / "commits" / stage / fingerprint

    def commits_folders(self) -> list[tuple[str, str]]:
        """Every (stage, fingerprint) that has a folder of commits."""
        paths = sorted((self.home / "commits").glob("*/*"))
        return [(path.parent.name, path.name) for path in paths if path.is_dir()]

    def listing(self, stage: str, fingerprint: str) -> CommitListing:
        """The stage's commits that verify by name and size, and those that do not."""
        return listing(self.commits_folder(stage, fingerprint))

    def descriptor(self, stage: str, fingerprint: str) -> Descriptor:
        """What a stage's fingerprint stands for. Raises FoleyError when it was never planned."""
        if stage == "clips":
            return CLIPS_DESCRIPTOR
        path = self.commits_folder(stage, fingerprint) / "stage.json"
        if not path.exists():
            todo = "run foley curate with these settings"
            raise FoleyError(f"nothing went through {stage} as {fingerprint}: {todo}")
        try:
            return Descriptor(**read_json(path))
        except TypeError as exc:
            raise FoleyError(f"{path} is damaged ({exc}): run the stage again") from exc

    def describe(self, descriptor: Descriptor) -> None:
        """Note what a fingerprint stands for and that it is the stage's current one.

        It is in use, and gc leaves it alone, while this object lives.
        """
        stage, fingerprint = descriptor.stage, descriptor.fingerprint
        folder = self.commits_folder(stage, fingerprint)
        with self._guard:
            if folder not in self._plans or not is_same(self._plans[folder], use_file(folder)):
                self._plans[folder] = hold_folder(folder)
                weakref.finalize(self, os.close, self._plans[folder])
        known = None
        with suppress(FoleyError):  # absent, or damaged: written anew
            known = self.descriptor(stage, fingerprint)
        if known != descriptor:
            write_json(self.tmp, folder / "stage.json", asdict(descriptor))
        if self.current(stage) != fingerprint:
            current = self.home / "commits" / stage / "CURRENT"
            write_file(self.tmp, lambda handle: handle.write(fingerprint.encode()), current)

    def current(self, stage: str) -> str | None:
        """Fingerprint under which the stage was last planned."""
        try:
            return (self.home / "commits" / stage / "CURRENT").read_text(errors="replace")
        except FileNotFoundError:
            return None

    def stages(self) -> dict[str, Descriptor]:
        """Current descriptor of every stage planned so far, in the order of work.

        A stage whose notes are damaged is none of them until it is planned again.
        """
        found: list[Descriptor] = []
        for path in sorted((self.home / "commits").glob("*/CURRENT")):
            with self.leaving_out(path):
                stage = path.parent.name
                found.append(self.descriptor(stage, self.current(stage) or ""))
        waiting = {d.stage: d for d in sorted(found, key=lambda d: d.order)}
        ordered: dict[str, Descriptor] = {}
        while waiting:
            free = [s for s, d in waiting.items() if not waiting.keys() & d.upstream.keys()]
            # Stages that were planned at different times may form a ring: any order will do then.
            first = (free or list(waiting))[0]
            ordered[first] = waiting.pop(first)
        return ordered

    def descriptors(self, stage: str) -> list[Descriptor]:
        """All that a stage was ever planned as, by fingerprint, but for what is damaged."""
        found: list[Descriptor] = []
        for path in sorted((self.home / "commits" / stage).glob("*/stage.json")):
            with self.leaving_out(path):
                found.append(self.descriptor(stage, path.parent.name))
        return found

    def fingerprints(self, stage: str) -> list[str]:
        """Every fingerprint that a stage was ever planned under."""
        return [descriptor.fingerprint for descriptor in self.descriptors(stage)]

    @contextmanager
    def leaving_out(self, path: Path) -> Generator[None]:
        """Go on without a note that cannot be made sense of, and say so once."""
        try:
            yield
        except (FoleyError, KeyError, TypeError) as exc:
            if self.sound.get(path, True):
                _log.warning("%s is left out until it is written anew: %s", path, exc)
            self.sound[path] = False

    def commit(self, stage: str, fingerprint: str, id_: str, rows: pa.Table) -> Path:
        """Write rows (spine columns first, see warehouse.schema) as one immutable commit.

        Returns its path.
        """
        folder = self.commits_folder(stage, fingerprint)
        return write_commit(self.tmp, folder, id_, rows, {"stage": stage, "commit": id_})

    # records --------------------------------------------------------------------------------------

    def record_path(self, kind: str, id: str) -> Path:
        """Where a record lies.

        Raises FoleyError for an unknown kind or an id that is no plain name.
        """
        if kind not in RECORDS:
            raise FoleyError(f"no such kind of record: {kind}; there are {', '.join(RECORDS)}")
        if not id or id.startswith(".") or "/" in id or "\\" in id:
            allowed = "use letters, digits, '-', '_' and '.'"
            raise FoleyError(f"{id!r} cannot name one of the {kind}: {allowed}")
        return self.home / kind / RECORDS[kind].replace("*", id)

    def write_record(self, kind: str, id: str, record: Mapping[str, object]) -> Path:
        """Write a record (a JSON object) atomically; an existing one of that id is replaced."""
        path = self.record_path(kind, id)
        make_folder(path.parent)
        return write_json(self.tmp, path, {**record, "id": id})

    def record(self, kind: str, id: str) -> Json:
        """Read a record. Raises FoleyError when there is none."""
        path = self.record_path(kind, id)
        if not path.exists():
            latest = ", ".join(r["id"] for r in self.records(kind)[-5:]) or "none yet"
            raise FoleyError(f"no {kind[:-1]} {id!r} in {self.home} (latest: {latest})")
        return read_json(path)

    def records(self, kind: str) -> list[Json]:
        """All records of a kind, sorted by id; unreadable ones are left to `verify`."""
        records: list[dict[str, object]] = []
        for path in self.record_files(kind):
            with suppress(FoleyError):
                records.append(read_json(path))
        return sorted(records, key=lambda record: str(record.get("id", "")))

    def record_files(self, *kinds: str) -> list[Path]:
        """Files of the records of these kinds."""
        return [path for kind in kinds for path in sorted(self.folder(kind).glob(RECORDS[kind]))]
