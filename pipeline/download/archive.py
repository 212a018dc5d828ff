"""Clips out of an archive as it streams by.

Plain or gzipped tar, told by content, and trusted in nothing.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CLIP_NAME = re.compile(r"^[\w-]{11}_\d{6}_\d{6}\.mp4$", re.ASCII)
_PIECE = 1 << 20


class ArchiveError(Exception):
    """An archive is damaged or hostile; one line."""


@dataclass(frozen=True)
class ArchiveLimits:
    """What no honest archive of videos goes beyond."""

    members: int = 200_000
    member_bytes: int = 1 << 31
    ratio: float = 50.0
    total_bytes: int = 1 << 38


@dataclass(frozen=True)
class Member:
    """A clip that was extracted.

    `label` is the name of its folder in the archive, if it has one.
    """

    file: str
    label: str | None
    bytes: int
    sha256: str


@dataclass
class Contents:
    """What an archive held.

    Clips, what was left out as (member, why), and its own size and hash.
    """

    clips: list[Member] = field(default_factory=list[Member])
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    members: int = 0
    others: list[str] = field(default_factory=list[str])  # clips that were not wanted, by file name
    bytes: int = 0
    sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def extract(
    pieces: Iterator[bytes],
    folder: Path,
    limits: ArchiveLimits | None = None,
    wanted: Collection[str] | None = None,
) -> Contents:
    """Write the clips (or those `wanted`) of a streamed archive into `folder`, under their own names.

    The archive's own folders are but labels. The stream is read to its end: gzip's checksum and
    length, tar's end mark and every header are checked. Members that are no clips (links, devices,
    `..`, other files) are left out with the reason. Raises ArchiveError for an archive that is
    damaged, cut or a bomb; what `pieces` raises passes through.
    """
    limits = limits or ArchiveLimits()
    stream = _Plain(pieces, limits)
    contents = Contents()
    try:
        # pyright: ignore[reportCallIssue, reportArgumentType]
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
            for member in archive:
                contents.members += 1
                if contents.members > limits.members:
                    raise ArchiveError(f"more than {limits.members} members")
                _take(archive, member, folder, contents, limits, wanted)
            ended_at: int = archive.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ArchiveError(f"damaged or no tar archive: {error}") from error
    stream.finish(ended_at)
    contents.bytes, contents.sha256 = stream.taken, stream.hash.hexdigest()
    return contents


def _take(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: Path,
    contents: Contents,
    limits: ArchiveLimits,
    wanted: Collection[str] | None,
) -> None:
    """Write one member, or note why not."""
    if member.isdir():
        return
    path = Path(member.name)
    why = _refusal(member, path, limits)
    if why is None and wanted is not None and path.name not in wanted:
        contents.others.append(path.name)
        return
    if why is None:
        source = archive.extractfile(member)
        assert source is not None
        target = folder / path.name
        if target.exists():
            same = _hash(source) == next(
                clip.sha256 for clip in contents.clips if clip.file == path.name
            )
            why = "comes twice" if same else "comes twice, with other content: the first is kept"
        else:
            label = path.parent.name or None
            contents.clips.append(Member(path.name, label, member.size, _write(source, target)))
    if why is not None:
        contents.left_out.append((member.name, why))


def _refusal(member: tarfile.TarInfo, path: Path, limits: ArchiveLimits) -> str | None:
    if not member.isreg():
        return "a link" if member.islnk() or member.issym() else "not a regular file"
    if member.issparse():
        return "a sparse file"  # a few bytes that would fill the disk
    if ".." in path.parts:
        return "a path with `..`"
    if path.name.startswith("._"):
        return "AppleDouble"
    if not CLIP_NAME.match(path.name):
        return "not named as a clip is"
    if member.size > limits.member_bytes:
        raise ArchiveError(f"a member of {member.size} bytes: {member.name!r}")
    return None


def _hash(source: Any) -> str:
    return hashlib.file_digest(source, "sha256").hexdigest()


def _write(source: Any, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while piece := source.read(_PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


class _Plain:
    """The tar bytes of a stream that may be gzipped: what tarfile reads from."""

    def __init__(self, pieces: Iterator[bytes], limits: ArchiveLimits) -> None:
        self._pieces, self._limits = pieces, limits
        self.hash, self.taken, self.given = hashlib.sha256(), 0, 0
        self._inflater: Any = None
        self._compressed = b""  # taken and not yet inflated
        self._left = b""  # inflated and not yet given
        self._last = deque[bytes](
            maxlen=3
        )  # the end of what was given: tarfile stops somewhere in it
        self._gzipped = self._head()[:2] == b"\x1f\x8b"
        if self._gzipped:
            self._inflater = zlib.decompressobj(31)

    def _head(self) -> bytes:
        while len(self._compressed) < 2 and (piece := self._piece()):
            self._compressed += piece
        return self._compressed

    def _piece(self) -> bytes:
        piece = next(self._pieces, b"")
        self.hash.update(piece)
        self.taken += len(piece)
        return piece

    def _more(self) -> bytes:
        """The next tar bytes, none at the end of the stream."""
        while True:
            data = self._compressed or self._piece()
            self._compressed = b""
            if not self._gzipped:
                return data
            if self._inflater.eof and data.strip(b"\0"):
                self._inflater = zlib.decompressobj(31)  # gzip files may follow each other
            if not data or self._inflater.eof:
                if not self._inflater.eof:
                    raise ArchiveError("cut: the gzip stream has no end")
                if not data:
                    return b""
                continue
            try:
                plain = self._inflater.decompress(data, _PIECE)
            except zlib.error as error:
                raise ArchiveError(f"damaged: {error}") from error
            self._compressed = self._inflater.unconsumed_tail or self._inflater.unused_data
            if plain:
                return plain

    def read(self, n: int) -> bytes:
        """Just n bytes, fewer at the end."""
        parts = [self._left]
        held = len(self._left)
        while held < n and (piece := self._more()):
            parts.append(piece)
            held += len(piece)
        data = b"".join(parts)
        found, self._left = data[:n], data[n:]
        self.given += len(found)
        self._last.append(found)
        if (
            self.given > max(self._limits.ratio * self.taken, 1 << 24)
            or self.given > self._limits.total_bytes
        ):
            raise ArchiveError(f"a bomb: {self.given} bytes out of {self.taken}")
        return found

    def finish(self, ended_at: int) -> None:
        """Read to the end.

        Tarfile stops without a word at a damaged header: behind an end there are zeros alone.
        """
        last = b"".join(self._last)
        behind = last[len(last) - (self.given - ended_at) :] if self.given > ended_at else b""
        mark = len(behind)
        while not behind.strip(b"\0") and (behind := self.read(_PIECE)):
            mark += len(behind)
        if behind.strip(b"\0"):
            raise ArchiveError(
                f"damaged: no valid member at byte {ended_at}, and the archive goes on"
            )
        if mark < tarfile.BLOCKSIZE:
            raise ArchiveError("cut: the tar archive has no end mark")
