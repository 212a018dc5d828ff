"""Units of a download: an archive, or a file by its own address, each there whole or still to do.

An archive's clips are extracted aside, checked, and appear in one step as a folder that holds its
own manifest (address, version, length, SHA-256, members with their sizes and hashes). So nothing
that is whole is fetched twice, and what was killed half-way leaves nothing behind that could be
taken for more.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self
from urllib.parse import urlsplit

from pipeline.download.archive import ArchiveError, extract
from pipeline.download.transfer import Fetcher, Remote, ReplacedError, TransferError, address
from warehouse.errors import FoleyError
from warehouse.files import (
    Json,
    make_folder,
    new_folder,
    read_json,
    remove_abandoned,
    write_file,
    write_json,
)

MANIFEST = "manifest.json"
Progress = Callable[[int], object]  # bytes that arrived since it was called last
RESERVE = 1 << 30  # bytes of disk that a download leaves free


@dataclass(frozen=True)
class UnitResult:
    """What came of one unit: its manifest, or why there is none."""

    url: str
    manifest: Json = field(default_factory=dict[str, object])
    error: str | None = None
    fetched: bool = False  # in this run, rather than before

    @property
    def clips(self) -> int:
        """Clips that are there."""
        return len(self.manifest.get("clips", ()))


def archive_folder(root: Path, url: str) -> Path:
    """Where an archive's clips go: the split's folder, then one of the archive's name.

    Raises FoleyError for an address that would lead anywhere else.
    """
    path = PurePosixPath(urlsplit(url).path)
    name = path.name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
    if any(not part or part.startswith(".") for part in (path.parent.name, name)):
        raise FoleyError(f"{url} names no archive in a split's folder: mend the list of archives")
    return root / path.parent.name / name


def manifest_of(folder: Path) -> Json | None:
    """The manifest of an archive's folder, if all its clips are there with the right size."""
    try:
        manifest = read_json(folder / MANIFEST)
        for clip in manifest["clips"]:
            if (folder / clip["file"]).stat().st_size != clip["bytes"]:
                return None
    except (FoleyError, OSError, KeyError, TypeError):
        return None
    return manifest


@dataclass(frozen=True)
class Choice:
    """Which clips of an archive are wanted, by file name (None is all), and about what share."""

    files: frozenset[str] | None = None
    share: float = 1.0

    def is_in(self, manifest: Mapping[str, object] | None) -> bool:
        """Whether an archive's folder has all wanted clips that the archive held."""
        others = None if manifest is None else manifest.get("others")
        return isinstance(others, list) and (
            not others if self.files is None else self.files.isdisjoint(others)
        )

    def with_those_of(self, manifest: Json | None) -> Self:
        """The same and the clips that are there: they stay."""
        if self.files is None or manifest is None:
            return self
        return replace(self, files=self.files.union(clip["file"] for clip in manifest["clips"]))


def fetch_archive(
    fetcher: Fetcher,
    url: str,
    root: Path,
    choice: Choice = Choice(),
    progress: Progress | None = None,
) -> UnitResult:
    """Fetch and extract an archive below `root`, unless it is there whole.

    What is wrong with it is in the result. Raises FoleyError only for what another archive would
    meet as well: a full or read-only disk.
    """
    target = archive_folder(root, url)
    before = manifest_of(target)
    if before is not None and choice.is_in(before):
        return UnitResult(url, before)
    choice = choice.with_those_of(before)
    make_folder(target.parent)
    if target.exists() and not (target / MANIFEST).is_file():
        error = f"{target} is there already and holds no archive: move it away"
        return UnitResult(url, error=error)
    failure = target.with_name(f".{target.name}.failed.json")
    reason = ""
    for _ in range(fetcher.settings.retries + 1):
        try:
            manifest = _fetch_once(fetcher, url, root, choice, progress)
        except TransferError as error:
            reason = str(error)
            if not isinstance(error, ReplacedError):
                break
        except ArchiveError as error:  # damage may be the transfer's: once more from the start
            if reason == str(error):
                break  # the same damage twice is the archive's
            reason = str(error)
        else:
            failure.unlink(missing_ok=True)
            return UnitResult(url, manifest, fetched=True)
    write_json(scratch(root), failure, {"url": url, "error": reason})
    return UnitResult(url, error=reason)


def _fetch_once(
    fetcher: Fetcher, url: str, root: Path, choice: Choice, progress: Progress | None
) -> Json:
    remotes: list[Remote] = []
    target = archive_folder(root, url)

    def opened(remote: Remote) -> None:
        check_space(root, round((remote.length or 0) * choice.share))
        remotes.append(remote)

    with (
        contextlib.closing(fetcher.stream(url, opened)) as stream,
        new_folder(scratch(root), target) as aside,
    ):
        contents = extract(_counted(stream, progress), aside, wanted=choice.files)
        manifest = {"url": url, "length": remotes[-1].length, "version": remotes[-1].version}
        manifest |= asdict(contents)
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (aside / MANIFEST).write_text(text, encoding="utf-8")
        if target.exists():  # files of it are gone, or fewer were chosen
            target.rename(aside.with_name("before"))
    return manifest


def _counted(stream: Iterator[bytes], progress: Progress | None) -> Iterator[bytes]:
    for piece in stream:
        if progress is not None:
            progress(len(piece))
        yield piece


def fetch_file(
    fetcher: Fetcher, url: str, root: Path, progress: Progress | None = None
) -> UnitResult:
    """Fetch one media file below `root`, unless it is there whole, named by its address's hash."""
    name = hashlib.sha256(url.encode()).hexdigest()[:24]
    try:
        suffix = PurePosixPath(address(url).path).suffix.lower()
    except TransferError as error:
        return UnitResult(url, error=str(error))
    suffix = suffix if suffix[1:].isalnum() else ".bin"
    target = make_folder(root / "files" / name[:2]) / (name + suffix)
    manifest = target.with_name(f".{name}.json")
    with contextlib.suppress(FoleyError, OSError, KeyError):
        before = read_json(manifest)
        if target.stat().st_size == before["bytes"]:
            return UnitResult(url, before)

    def fetch() -> dict[str, object]:
        digest, remotes = hashlib.sha256(), list[Remote]()

        def write(file: BinaryIO) -> None:
            with contextlib.closing(fetcher.stream(url, remotes.append)) as stream:
                for piece in _counted(stream, progress):
                    digest.update(piece)
                    file.write(piece)

        write_file(scratch(root), write, target)
        clip = {"file": str(target.relative_to(root)), "bytes": target.stat().st_size}
        clip["sha256"] = digest.hexdigest()
        return {
            "url": url,
            **clip,
            "version": remotes[-1].version,
            "clips": [clip | {"label": None}],
        }

    try:
        facts = fetcher.anew(fetch)
    except TransferError as error:
        return UnitResult(url, error=str(error))
    write_json(scratch(root), manifest, facts)
    return UnitResult(url, facts, fetched=True)


def scratch(root: Path) -> Path:
    """The folder for what is not whole yet, on the same file system."""
    return make_folder(root / ".partial")


def sweep(root: Path) -> None:
    """Remove what downloads that were killed left behind; what living ones write is locked."""
    for path in scratch(root).iterdir():
        remove_abandoned(path)


def check_space(root: Path, needed: int) -> None:
    """Raise FoleyError when the disk has not `needed` bytes and a reserve free."""
    free = shutil.disk_usage(root).free
    if free < needed + RESERVE:
        gib = 1 << 30
        raise FoleyError(
            f"{root}: {needed / gib:.1f} GiB are to come and 1 GiB is to stay free, but only"
            f" {free / gib:.1f} GiB are free: make room, or choose fewer splits or classes"
        )
