"""Clips out of an archive as it streams by: plain or gzipped tar, trusted in nothing."""

import hashlib
import io
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
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
    """A clip that was extracted; `label` is the name of its folder in the archive, if any."""

    file: str
    label: str | None
    bytes: int
    sha256: str


@dataclass
class Contents:
    """Clips of an archive, what was left out as (member, why), and its own size and hash."""

    clips: list[Member] = field(default_factory=list[Member])
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    members: int = 0
    others: list[str] = field(default_factory=list[str])  # clips that were not wanted, by file name
    bytes: int = 0
    sha256: str = ""


def extract(
    pieces: Iterator[bytes],
    folder: Path,
    limits: ArchiveLimits | None = None,
    wanted: Collection[str] | None = None,
) -> Contents:
    """Write the clips (or those `wanted`) of a streamed archive into `folder`, by their own names.

    The archive's own folders are but labels. The stream is read to its end: gzip's checksum and
    length, tar's end mark and every header are checked. Members that are no clips (links, devices,
    `..`, other files) are left out with the reason. Raises ArchiveError for an archive that is
    damaged, cut or a bomb; what `pieces` raises passes through.
    """
    limits = limits or ArchiveLimits()
    stream = _TarBytes(pieces, limits)
    extraction = _Extraction(folder, limits, wanted, Contents())
    contents = extraction.contents
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
            for member in archive:
                contents.members += 1
                if contents.members > limits.members:
                    raise ArchiveError(f"more than {limits.members} members")
                if not member.isdir():
                    extraction.take(archive, member)
            ended_at: int = archive.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ArchiveError(f"damaged or no tar archive: {error}") from error
    stream.finish(ended_at)
    contents.bytes, contents.sha256 = stream.received, stream.hash.hexdigest()
    return contents


@dataclass(frozen=True)
class _Extraction:
    """Where members go, which of them, and what came of them."""

    folder: Path
    limits: ArchiveLimits
    wanted: Collection[str] | None
    contents: Contents

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Write one member, or note why not."""
        path = Path(member.name)
        refusal = self._refusal(member, path)
        if refusal is None and self.wanted is not None and path.name not in self.wanted:
            self.contents.others.append(path.name)
            return
        if refusal is None:
            refusal = self._write(archive, member, path)
        if refusal is not None:
            self.contents.left_out.append((member.name, refusal))

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str | None:
        """Write a clip; a reason where one of that name is there."""
        source: Any = archive.extractfile(member)
        target = self.folder / path.name
        if target.exists():
            first = next(clip.sha256 for clip in self.contents.clips if clip.file == path.name)
            same = hashlib.file_digest(source, "sha256").hexdigest() == first
            return "comes twice" if same else "comes twice, with other content: the first is kept"
        digest = hashlib.sha256()
        with target.open("xb") as file:
            while piece := source.read(_PIECE):
                digest.update(piece)
                file.write(piece)
        label = path.parent.name or None
        self.contents.clips.append(Member(path.name, label, member.size, digest.hexdigest()))
        return None

    def _refusal(self, member: tarfile.TarInfo, path: Path) -> str | None:
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
        if member.size > self.limits.member_bytes:
            raise ArchiveError(f"a member of {member.size} bytes: {member.name!r}")
        return None


class _TarBytes(io.RawIOBase):
    """The tar bytes of a stream that may be gzipped: what tarfile reads from."""

    def __init__(self, pieces: Iterator[bytes], limits: ArchiveLimits) -> None:
        super().__init__()
        self._pieces, self._limits = pieces, limits
        self.hash, self.received, self.given = hashlib.sha256(), 0, 0
        self._compressed = b""  # received and not yet inflated
        self._left = b""  # inflated and not yet given
        self._last = deque[bytes](maxlen=3)  # tarfile stops somewhere in the last that was given
        while len(self._compressed) < 2 and (piece := self._piece()):
            self._compressed += piece
        gzipped = self._compressed[:2] == b"\x1f\x8b"
        self._inflater: Any = zlib.decompressobj(31) if gzipped else None

    def _piece(self) -> bytes:
        piece = next(self._pieces, b"")
        self.hash.update(piece)
        self.received += len(piece)
        return piece

    def _more(self) -> bytes:
        """The next tar bytes, none at the end of the stream."""
        while True:
            data = self._compressed or self._piece()
            self._compressed = b""
            if self._inflater is None:
                return data
            if self._inflater.eof and data.strip(b"\0"):
                self._inflater = zlib.decompressobj(31)  # gzip files may follow each other
            if self._inflater.eof:
                if not data:
                    return b""
                continue
            if not data:
                raise ArchiveError("cut: the gzip stream has no end")
            try:
                plain = self._inflater.decompress(data, _PIECE)
            except zlib.error as error:
                raise ArchiveError(f"damaged: {error}") from error
            self._compressed = self._inflater.unconsumed_tail or self._inflater.unused_data
            if plain:
                return plain

    def read(self, size: int = -1, /) -> bytes:
        """Just `size` bytes, fewer at the end."""
        parts, held = [self._left], len(self._left)
        while held < size and (piece := self._more()):
            parts.append(piece)
            held += len(piece)
        data = b"".join(parts)
        data, self._left = data[:size], data[size:]
        self.given += len(data)
        self._last.append(data)
        most = min(max(self._limits.ratio * self.received, 1 << 24), self._limits.total_bytes)
        if self.given > most:
            raise ArchiveError(f"a bomb: {self.given} bytes out of {self.received}")
        return data

    def finish(self, ended_at: int) -> None:
        """Read on after tarfile, which stops at a damaged header: after an end are zeros alone."""
        last = b"".join(self._last)
        behind = last[len(last) - (self.given - ended_at) :] if self.given > ended_at else b""
        mark = len(behind)
        while not behind.strip(b"\0") and (behind := self.read(_PIECE)):
            mark += len(behind)
        if behind.strip(b"\0"):
            raise ArchiveError(f"damaged: no valid member at byte {ended_at}, and bytes after it")
        if mark < tarfile.BLOCKSIZE:
            raise ArchiveError("cut: the tar archive has no end mark")
