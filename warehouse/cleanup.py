"""Merges small commits and finds what dead runs left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Commit, commit_id, footer, write_commit
from warehouse.datasets.versions import list_datasets, written_pages
from warehouse.files import disk_bytes, file_lock, is_abandoned, read_json
from warehouse.rows.live import REMOVAL

if TYPE_CHECKING:
    from warehouse.home import Home

_COMPACT_ROWS = 65_536
_COMPACT_BYTES = 256 << 20


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing needs."""

    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Compacted:
    """Commits of a stage that became one."""

    stage: str
    files: int
    rows: int


def compact(home: Home, at_least: int = 4) -> list[Compacted]:
    """Merge small commits into large ones sorted by clip_id, `at_least` so many at a time.

    The merged commit is there before the small ones go, and rows that are in both count once, so
    nobody sees more or less than there is. A stage that another process compacts is left out.
    """
    done: list[Compacted] = []
    for stage, fingerprint in home.commits_folders():
        with file_lock(home.lock_path(f"compact-{stage}-{fingerprint}"), wait=False) as mine:
            if mine:
                _remove(home, _replaced(home, stage, fingerprint))
                groups = _groups(home.listing(stage, fingerprint).good, at_least)
                done += [_merge(home, stage, fingerprint, group) for group in groups]
    return done


def _groups(commits: Iterable[Commit], at_least: int) -> Iterator[list[Commit]]:
    """Small commits in groups that stay under the size of a large one."""
    group: list[Commit] = []
    rows = size = 0
    for commit in commits:
        if commit.rows * 2 > _COMPACT_ROWS or commit.bytes * 2 > _COMPACT_BYTES:
            continue
        rows, size = rows + commit.rows, size + commit.bytes
        if group and (rows > _COMPACT_ROWS or size > _COMPACT_BYTES):
            if len(group) >= at_least:
                yield group
            group, rows, size = [], commit.rows, commit.bytes
        group.append(commit)
    if len(group) >= at_least:
        yield group


def _merge(home: Home, stage: str, fingerprint: str, group: Sequence[Commit]) -> Compacted:
    """Write the merged commit, then remove the ones it replaces."""
    tables = [pq.read_table(c.path, page_checksum_verification=True) for c in group]
    schema = home.descriptor(stage, fingerprint).all_columns
    merged = pa.concat_tables([table.select(schema.names).cast(schema) for table in tables])
    merged = merged.take(_order(merged))
    names = [commit.path.name for commit in group]
    id_ = "c" + commit_id([stage, fingerprint, *names])
    note = {"commit": id_, "stage": stage, "replaces": names}
    write_commit(home.tmp, home.commits_folder(stage, fingerprint), id_, merged, note)
    _remove(home, [commit.path for commit in group])
    return Compacted(stage, len(group), merged.num_rows)


def _order(rows: pa.Table) -> pa.ChunkedArray:
    """Row numbers sorted by clip, input, generation and commit, once for a row of several files."""
    keys = ["clip_id", "input", "generation", "commit", "status"]
    numbered = rows.select(keys).append_column("row", pa.array(range(rows.num_rows)))
    distinct = numbered.group_by(keys).aggregate([("row", "min")])
    return distinct.sort_by([(key, "ascending") for key in keys])["row_min"]


def _replaced(home: Home, stage: str, fingerprint: str) -> list[Path]:
    """Commits that a compaction replaced and was killed before it removed."""
    compacted = [c.path for c in home.listing(stage, fingerprint).good if c.compacted]
    paths = [path.parent / name for path in compacted for name in footer(path).get("replaces", [])]
    return [path for path in paths if path.exists()]


def _remove(home: Home, paths: Sequence[Path]) -> None:
    """Remove commits that another holds too, but not under a query that has locked them."""
    if paths:
        with file_lock(home.lock_path(REMOVAL)):
            for path in paths:
                path.unlink(missing_ok=True)


def gc(home: Home, dry_run: bool = True, unused: bool = False) -> list[Garbage]:
    """List, and with `dry_run` off remove, what dead runs left behind.

    That is: temporary files without a living writer, commits that compaction replaced, damaged
    commits of fingerprints that nothing refers to, and pages of dataset versions that are gone.
    With `unused` also all commits of fingerprints that are neither current nor referred to (going
    back to those settings then means work), and pages of versions that have a newer one (`foley
    report curation` writes them again).
    """
    garbage = [*_temporary(home), *_old_commits(home, unused), *_old_pages(home, unused)]
    for item in () if dry_run else garbage:
        if item.path.is_dir():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            _remove(home, [item.path])
    return garbage


def _temporary(home: Home) -> Iterator[Garbage]:
    for path in sorted(home.tmp.iterdir()):
        if is_abandoned(path):
            yield Garbage(path, disk_bytes(path), "temporary, its writer is gone")


def _old_commits(home: Home, unused: bool) -> Iterator[Garbage]:
    referenced = _referenced(home)
    for stage, fingerprint in home.commits_folders():
        needed = (stage, fingerprint) in referenced or stage == "clips"
        if unused and not needed and home.current(stage) != fingerprint:
            folder = home.commits_folder(stage, fingerprint)
            yield Garbage(folder, disk_bytes(folder), "fingerprint neither current nor referred to")
            continue
        for path in _replaced(home, stage, fingerprint):
            yield Garbage(path, disk_bytes(path), "replaced by compaction")
        for path in () if needed else home.listing(stage, fingerprint).damaged:
            yield Garbage(path, disk_bytes(path), "damaged commit")


def _old_pages(home: Home, unused: bool) -> Iterator[Garbage]:
    # Pages are listed before the versions, because a page is written after its version.
    pages = written_pages(home.home)
    newest = {dataset.name: dataset.version for dataset in list_datasets(home)}
    for version, page in pages.items():
        if not (home.home / "datasets" / version).is_dir():
            yield Garbage(page, disk_bytes(page), "page of a dataset version that is gone")
        elif unused and version not in newest.values():
            yield Garbage(page, disk_bytes(page), "page of a dataset version that has a newer one")


def _referenced(home: Home) -> set[tuple[str, str]]:
    """(stage, fingerprint) that datasets, feature sets and current stages build on, recursively."""
    waiting = [item for dataset in list_datasets(home) for item in dataset.fingerprints.items()]
    for path in home.folder("features").glob("*/_features.json"):
        waiting += read_json(path)["fingerprints"].items()
    for descriptor in home.stages().values():
        waiting += descriptor.upstream.items()
    referenced: set[tuple[str, str]] = set()
    while waiting:
        item = waiting.pop()
        if item not in referenced:
            referenced.add(item)
            if (home.commits_folder(*item) / "stage.json").exists():
                waiting += home.descriptor(*item).upstream.items()
    return referenced
