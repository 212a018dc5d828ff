"""Sources: where clips come from.

Each gives the rows that the warehouse ingests, one a media file.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa

from pipeline.media import MediaError, printable, sniff
from pipeline.tables import read_table
from warehouse.errors import FoleyError

_COLUMNS = "clip_id path source source_video url label prompt split truth"
SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS.split()])
_SUFFIXES = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv"
MEDIA_SUFFIXES = frozenset(_SUFFIXES.split())
_RAW = ".apng .gif .h264 .h265 .hevc .ivf .m4p .obu .rm .swf .webp .y4m"
_NOT_READ = frozenset(_RAW.split())
SIDECARS = ("clips.jsonl", "clips.csv", "metadata.jsonl", "metadata.csv")

_ALIASES: dict[str, tuple[str, ...]] = {
    "file": ("file", "file_name", "filename", "path"),
    "prompt": ("prompt", "caption", "text"),
    "label": ("label", "class"),
    "split": ("split",),
    "url": ("url",),
    "source_video": ("source_video", "youtube_id"),
    "truth": ("truth",),
}
# What cameras and programs call every file.
_NAMES = """
clip dsc dscn file gopr img image mov movie mvi output pxl rec recording untitled vid video"""
_NO_WORDS = frozenset(_NAMES.split())
_YOUTUBE_CLIP = re.compile(r"^(?P<id>.{11})_\d{6}_\d{6}$")

#: What a sidecar says of a file: prompt, label, split, url, source_video, truth.
Facts = dict[str, str]


@dataclass(frozen=True)
class Listing:
    """Clips of a source, ready to be ingested, and what was passed over, as (where, why)."""

    clips: pa.Table
    skipped: tuple[tuple[str, str], ...] = ()


def folder_source(folder: Path, name: str | None = None) -> Listing:
    """Every file under `folder` that is a media file by its content, or claims to be by its name.

    A clip's id is `name` (the folder's own, unless given) and the path below it without the
    extension; files that differ only in that keep it. A sidecar (`clips.jsonl`, `clips.csv`,
    `metadata.jsonl` or `metadata.csv`) in any folder may give `prompt`, `label`, `split`, `url`,
    `source_video` and `truth` by file name; a file that it names and that is not there is listed
    all the same, so that its absence becomes a row. Without a prompt, the words of the file's name
    are taken. Raises FoleyError if the folder cannot be read or a sidecar makes no sense.
    """
    root = source_root(folder)
    name = name or root.name or "clips"
    skipped: list[tuple[str, str]] = []
    facts: dict[Path, Facts] = {}
    media: set[Path] = set()
    for path in _files(root, skipped):
        if path.name in SIDECARS:
            facts |= _read_sidecar(path, skipped)
        elif not _is_text(path):
            skipped.append((printable(path), "a name that is not valid text"))
        elif path.suffix.lower() in _NOT_READ:
            skipped.append((printable(path), "no container that we read: make it an mp4 first"))
        elif _is_media(path):
            media.add(path)
    ids = _clip_ids(root, name, sorted(media | facts.keys()))
    rows = [_row(path, clip_id, name, facts.get(path, {})) for path, clip_id in ids]
    return Listing(pa.Table.from_pylist(rows, SCHEMA), tuple(skipped))


def source_root(folder: Path) -> Path:
    """The folder as an absolute path without `..`, which a sidecar's paths have neither.

    Links stay as they are given, but for those before a `..`: what is above them only the file
    system knows. Raises FoleyError where there is no such folder.
    """
    if not folder.is_dir():
        where = printable(folder)
        raise FoleyError(f"{where}: no such folder, give the folder that holds the clips")
    return folder.resolve() if ".." in folder.parts else folder.absolute()


def check_media(folder: Path) -> None:
    """Raises FoleyError where `folder_source` would list nothing."""
    if not has_media(folder):
        raise no_media(folder)


def has_media(folder: Path) -> bool:
    """Whether `folder_source` would list anything; ends at the first file."""
    files = _files(source_root(folder), [])
    return any(path.name in SIDECARS or _is_media(path) for path in files)


def no_media(folder: Path) -> FoleyError:
    """The error for a folder that no clip could come from."""
    where = printable(folder)
    return FoleyError(
        f"{where}: no media file in this folder, give the folder that holds the clips"
    )


def words_of(path: Path) -> str:
    """The words of a file's name, else its folder's: `Dog-barking_02.mp4` is "dog barking"."""
    for text in (path.stem, path.parent.name):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
        words = re.findall(r"[^\W\d_]+", spaced)
        if any(len(word) > 2 and word.lower() not in _NO_WORDS for word in words):
            return " ".join(words).lower()
    return ""


def _files(root: Path, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Files below `root` in order, without hidden ones and folders that are links."""

    def unreadable(error: OSError) -> None:
        where = printable(Path(os.fsdecode(error.filename)))
        skipped.append((where, error.strerror or "cannot be read"))

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _is_text(path: Path | str) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_media(path: Path) -> bool:
    if path.suffix.lower() in MEDIA_SUFFIXES:
        return True
    try:
        return sniff(path) is not None
    except MediaError:
        return False


def _clip_ids(root: Path, name: str, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """(path, id) of each; where ids without extensions would meet, the extension stays."""
    relative = {path: Path(os.path.relpath(path, root)) for path in paths}
    short = Counter(path.with_suffix("").as_posix() for path in relative.values())
    for path, below in relative.items():
        stem = below.with_suffix("").as_posix()
        yield path, f"{name}/{stem if short[stem] == 1 else below.as_posix()}"


def _row(path: Path, clip_id: str, source: str, facts: Mapping[str, str]) -> dict[str, str | None]:
    youtube = _YOUTUBE_CLIP.match(path.stem)
    words = words_of(path.parent / "_" if youtube else path)
    row: dict[str, str | None] = {key: facts.get(key) or None for key in SCHEMA.names}
    return row | {
        "clip_id": clip_id,
        "path": str(path),
        "source": source,
        "source_video": row["source_video"] or (youtube["id"] if youtube else clip_id),
        "prompt": row["prompt"] or row["label"] or words,
    }


def _read_sidecar(path: Path, skipped: list[tuple[str, str]]) -> dict[Path, Facts]:
    """What a sidecar says, by the file's path; columns that mean nothing here are `skipped`."""
    facts: dict[Path, Facts] = {}
    where = printable(path)
    for number, line in _numbered_facts(path, skipped):
        odd = [name for name, text in line.items() if not _is_text(text)]
        skipped += [(f"{where}, line {number}", f"{name} is not valid text") for name in odd]
        if "file" in odd:
            continue
        for name in odd:
            del line[name]
        if not line.get("file"):
            raise FoleyError(f"{where}, line {number}: names no file, give it a column `file`")
        facts[Path(os.path.normpath(path.parent / line.pop("file")))] = line
    return facts


def read_rows(path: Path) -> list[Facts]:
    """The lines of a CSV or JSONL file by the columns that we know. Raises FoleyError."""
    return [facts for _, facts in _numbered_facts(path, [])]


def _numbered_facts(path: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[int, Facts]]:
    if path.suffix != ".csv":
        yield from _json_lines(path)
        return
    table = read_table(path, _ALIASES)
    if table.ignored:
        skipped.append((printable(path), f"columns that mean nothing: {', '.join(table.ignored)}"))
    for number, row in table.rows:
        yield number, {name: cell for name, cell in row.items() if cell}


def _json_lines(path: Path) -> Iterator[tuple[int, Facts]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line) if line.strip() else {}
                if not isinstance(row, dict):
                    raise FoleyError(f"{printable(path)}: line {number} is not a JSON object")
                if row:
                    yield number, _facts(cast("dict[str, object]", row))
    except (OSError, ValueError) as error:
        raise FoleyError(f"{printable(path)}: cannot be read as JSONL: {error}") from error


def _facts(row: Mapping[str, object]) -> Facts:
    """The columns we know, under their own names, as text (truth as JSON text)."""
    plain = {name.strip().lower(): value for name, value in row.items()}
    facts: Facts = {}
    for key, aliases in _ALIASES.items():
        given = (plain[alias] for alias in aliases if plain.get(alias) not in (None, ""))
        if (value := next(given, None)) is not None:
            facts[key] = value if isinstance(value, str) else json.dumps(value)
    return facts
