"""Commits: immutable Parquet files, one a batch, whose names promise their rows and bytes.

In HOME/commits/<stage>/<fingerprint>/ lie

    <id>-<rows>-<bytes>-<crc>.parquet     written by a batch
    c<id>-<rows>-<bytes>-<crc>.parquet    written by compaction, replaces several
    stage.json                            what the fingerprint stands for

The id hashes what went in, so that a replay has the same id. A listing with sizes is enough to see
a truncated commit without opening it, and the CRC-32 of the whole file shows any other damage.
Commits without one are of an older foley; the checksums of their pages stand in.
"""

import base64
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import clear_os_errors
from warehouse.files import Json, file_crc, make_folder, write_file
from warehouse.schema import CLIPS, SPINE, is_array

NAME = re.compile(r"(c?[0-9a-f]{16})-(\d+)-(\d+)(?:-([0-9a-f]{8}))?\.parquet")
_GROUP_BYTES = 8 << 20
_ID = 16  # digits


@dataclass(frozen=True)
class Commit:
    """One commit file, with what its name promises."""

    path: Path
    id: str
    rows: int
    bytes: int
    crc: str | None

    @property
    def compacted(self) -> bool:
        """Whether compaction wrote it."""
        return len(self.id) > _ID  # a batch's may begin with a c, too


@dataclass(frozen=True)
class CommitListing:
    """The commits of a stage and fingerprint as they lie on disk now."""

    good: tuple[Commit, ...]
    damaged: tuple[Path, ...]

    @property
    def files(self) -> list[str]:
        """Paths of the commits that can be counted on."""
        return [str(commit.path) for commit in self.good]


@dataclass(frozen=True)
class Descriptor:
    """What a fingerprint stands for; `reads` are the clip columns that all its stages depend on.

    `scope` and `position` (in the order of work) say what the stage was last planned for: they are
    no part of the fingerprint.
    """

    stage: str
    fingerprint: str
    version: int = 1
    settings: Json = field(default_factory=dict[str, object])
    model_revision: str = ""
    upstream: dict[str, str] = field(default_factory=dict[str, str])
    reads: list[str] = field(default_factory=list[str])
    schema: str = ""
    doc: str = ""
    scope: str = "all"
    position: int = 0

    @property
    def order(self) -> tuple[bool, bool, int, str]:
        """Where it stands in the order of work: scores, then features, then the rest."""
        return self.scope != "all", self.scope != "kept", self.position, self.stage

    @property
    def columns(self) -> pa.Schema:
        """The stage's own columns with their metadata."""
        if not self.schema:
            return pa.schema([])
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    @property
    def all_columns(self) -> pa.Schema:
        """Every column of the stage's commits: spine first."""
        return pa.schema([*SPINE, *self.columns])


def schema_text(schema: pa.Schema) -> str:
    """A schema as text that JSON can hold."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


CLIPS_DOC = "Clips as their sources gave them, newest row of each."
CLIPS_DESCRIPTOR = Descriptor("clips", "source", schema=schema_text(CLIPS), doc=CLIPS_DOC)


def commit_id(parts: Iterable[object]) -> str:
    """Name of a commit from what went into it: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part).encode() + b"\x1f")
    return digest.hexdigest()[:_ID]


def parse(path: Path) -> Commit | None:
    """The commit that a file name promises, or None if it is no commit's name."""
    match = NAME.fullmatch(path.name)
    return Commit(path, match[1], int(match[2]), int(match[3]), match[4]) if match else None


def listing(folder: Path) -> CommitListing:
    """Look at every commit of a folder: good ones have the size that their name promises."""
    good: list[Commit] = []
    damaged: list[Path] = []
    with clear_os_errors(f"list {folder}"):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return CommitListing((), ())
        for entry in entries:
            path = Path(entry.path)
            commit = parse(path)
            if commit is None:
                continue
            with suppress(FileNotFoundError):  # compaction may just have removed it
                stat = entry.stat()
                if S_ISREG(stat.st_mode) and stat.st_size == commit.bytes:
                    good.append(commit)
                else:
                    damaged.append(path)
    return CommitListing(tuple(good), tuple(damaged))


def write_commit(tmp: Path, folder: Path, id_: str, rows: pa.Table, footer: Json) -> Path:
    """Write one commit atomically and return its path."""
    make_folder(folder)
    metadata = {**(rows.schema.metadata or {}), b"foley": json.dumps(footer).encode()}
    table = rows.replace_schema_metadata(metadata)

    def name(handle: BinaryIO) -> Path:
        return folder / f"{id_}-{rows.num_rows}-{handle.tell()}-{file_crc(handle)}.parquet"

    return write_file(tmp, lambda handle: write_parquet(table, handle), name)


def writer_options(schema: pa.Schema) -> Json:
    """How columns are encoded: arrays plain and uncompressed, the rest small and searchable."""
    scalars = [f.name for f in schema if not is_array(f)]
    return {
        "compression": {f.name: "none" if is_array(f) else "zstd" for f in schema},
        "use_dictionary": scalars,
        "write_statistics": scalars,
        "write_page_checksum": True,
    }


def write_parquet(table: pa.Table, sink: object) -> None:
    """Write a table in row groups of about 8 MiB, so that few rows can be read without the rest."""
    per_row = max(1, table.nbytes // max(1, table.num_rows))
    size = max(1, min(16384, _GROUP_BYTES // per_row))
    pq.write_table(table, sink, row_group_size=size, **writer_options(table.schema))


def footer(path: object) -> Json:
    """What the writer noted in the footer of a commit, at a path or open."""
    metadata = pq.read_metadata(path).metadata or {}
    return json.loads(metadata.get(b"foley", b"{}"))


def reads_as_written(commit: Commit, from_disk: bool = False) -> bool:
    """Whether the whole file is what was written, or is gone.

    `from_disk` has the system drop what it holds of the file in memory first. Raises FoleyError
    when the system refuses to read it for a reason that a person has to mend.
    """
    with clear_os_errors(f"read {commit.path}"):
        try:
            with open(commit.path, "rb") as handle:
                if from_disk:
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if commit.crc is not None:
                    return file_crc(handle) == commit.crc
            rows = pq.read_table(commit.path, page_checksum_verification=True).num_rows
        except FileNotFoundError:
            return True
        except MemoryError:  # one of Arrow's errors too
            raise
        except OSError as exc:
            if exc.errno in (None, errno.EIO):  # Parquet's own, and the disk's
                return False
            raise
        except (pa.ArrowException, ValueError):
            return False
    return rows == commit.rows
