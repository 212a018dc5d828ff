"""Merges small commits and finds what dead runs left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Commit, commit_id, footer, reads_as_written, write_commit
from warehouse.datasets.layout import REMOVED_SETS
from warehouse.datasets.versions import (
    VERSION,
    VERSIONS,
    Dataset,
    damaged_versions,
    find_dataset,
    list_datasets,
    read_dataset,
)
from warehouse.errors import FoleyError
from warehouse.files import (
    discard,
    disk_bytes,
    file_lock,
    is_abandoned,
    read_json,
    remove_abandoned,
    unless_held,
    use_file,
)
from warehouse.rows.damage import sound
from warehouse.rows.live import REMOVAL
from warehouse.runs import works_on_versions

if TYPE_CHECKING:
    from warehouse.home import Home

_log = logging.getLogger("foley.warehouse")
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
    nobody sees more or less than there is. A stage that another process compacts is left out, and a
    fingerprint whose note was set aside until it is planned again.
    """
    done: list[Compacted] = []
    for stage, fingerprint in home.commits_folders():
        if stage != "clips" and fingerprint not in home.fingerprints(stage):
            continue
        with file_lock(home.lock_path(f"compact-{stage}-{fingerprint}"), wait=False) as mine:
            if mine:
                _remove(home, _replaced(home, stage, fingerprint))
                for group in _groups(home.listing(stage, fingerprint).good, at_least):
                    whole = sound(home, group)
                    if len(whole) > 1:
                        done.append(_merge(home, stage, fingerprint, whole))
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
    replaced: list[Path] = []
    for commit in home.listing(stage, fingerprint).good:
        if commit.compacted:
            with suppress(OSError, ValueError, pa.ArrowException):  # whoever reads it sets it aside
                names = footer(commit.path).get("replaces", [])
                there = [path for name in names if (path := commit.path.parent / name).exists()]
                replaced += there if there and reads_as_written(commit) else []
    return replaced


def _remove(home: Home, paths: Sequence[Path]) -> None:
    """Remove commits that another holds too, but not under a query that has locked them."""
    if paths:
        with file_lock(home.lock_path(REMOVAL)):
            for path in paths:
                path.unlink(missing_ok=True)


def gc(
    home: Home, dry_run: bool = True, unused: bool = False, keep: int | None = None
) -> list[Garbage]:
    """List, and with `dry_run` off remove, what dead runs left behind.

    That is: temporary files without a living writer, commits that compaction replaced, damaged
    commits of fingerprints that nothing refers to, and pages of dataset versions that are gone.
    With `unused` also all commits of fingerprints that are neither current nor referred to, nor
    planned with by a living run (going back to those settings then means work), damaged files that
    were set aside, and pages of versions that have a newer one (`foley report curation` writes them
    again). With `keep` also dataset versions that so many of their name are newer than, with their
    features: not the one that was selected last, and none that a checkpoint or evaluation names;
    none at all while a run is open.
    """
    with file_lock(home.lock_path(VERSIONS)):
        old = [] if keep is None else _old_versions(home, keep)
        if not dry_run:
            for item in old:
                with file_lock(home.lock_path(REMOVED_SETS)):
                    discard(home.tmp, item.path)
    garbage = [*_temporary(home), *_old_commits(home, unused), *_old_pages(home, unused)]
    if unused:
        aside = [path for path in sorted(home.home.glob("damaged/**/*")) if path.is_file()]
        garbage += [Garbage(path, disk_bytes(path), "damaged, set aside") for path in aside]
    for path in () if dry_run else [item.path for item in garbage]:
        if path.parent == home.tmp:
            remove_abandoned(path)
        elif path.is_dir():
            _discard_fingerprint(home, path)
        else:
            _remove(home, [path])
    return old + garbage


def _discard_fingerprint(home: Home, folder: Path) -> None:
    """Remove all commits of a fingerprint, unless a run plans with it."""
    with unless_held(use_file(folder), create=True) as free:
        if free:
            discard(home.tmp, folder)


def _temporary(home: Home) -> Iterator[Garbage]:
    for path in sorted(home.tmp.iterdir()):
        if is_abandoned(path):
            yield Garbage(path, disk_bytes(path), "temporary, its writer is gone")


def _old_commits(home: Home, unused: bool) -> Iterator[Garbage]:
    referenced = _referenced(home)
    for stage, fingerprint in home.commits_folders():
        needed = (stage, fingerprint) in referenced or stage == "clips"
        if unused and not needed:
            folder = home.commits_folder(stage, fingerprint)
            yield Garbage(folder, disk_bytes(folder), "fingerprint that is not in use")
            continue
        for path in _replaced(home, stage, fingerprint):
            yield Garbage(path, disk_bytes(path), "replaced by compaction")
        for path in () if needed else home.listing(stage, fingerprint).damaged:
            yield Garbage(path, disk_bytes(path), "damaged commit")


def _old_versions(home: Home, keep: int) -> list[Garbage]:
    """Versions that retention lets go, with feature sets of these and of versions that are gone."""
    if works_on_versions(home) or damaged_versions(home):  # who may refer to these is not known
        return []
    records = [*home.records("checkpoints"), *home.records("evaluations")]
    named = {record.get(what) for record in records for what in ("dataset", "features")}
    by_name: dict[str, list[Dataset]] = {}
    for dataset in list_datasets(home):
        by_name.setdefault(dataset.name, []).append(dataset)
    named |= {find_dataset(home, name).version for name in by_name}
    old = [d for every in by_name.values() for d in every[: -max(1, keep)]]
    old = [dataset for dataset in old if dataset.version not in named]
    why = f"{keep} versions are newer, and nothing refers to it"
    garbage = [Garbage(dataset.path, _unshared_bytes(dataset.path), why) for dataset in old]
    left = {d.version for every in by_name.values() for d in every} - {d.version for d in old}
    for path in sorted(home.folder("features").glob("*/_features.json")):
        with home.leaving_out(path):
            if read_json(path)["dataset"] not in left and path.parent.name not in named:
                why = "features of a dataset version that goes"
                garbage.append(Garbage(path.parent, _unshared_bytes(path.parent), why))
    return garbage


def _unshared_bytes(folder: Path) -> int:
    """Bytes of the files of a folder that have no other name: what its removal makes free."""
    stats = [path.stat() for path in folder.iterdir()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def _old_pages(home: Home, unused: bool) -> Iterator[Garbage]:
    # Pages are listed before the versions, because a page is written after its version.
    pages = sorted(home.home.glob("reports/curation-*.html"))
    newest = {find_dataset(home, d.name).version for d in list_datasets(home)}
    for page in pages:
        version = page.stem.removeprefix("curation-")
        if not VERSION.fullmatch(version):
            continue  # a person named it
        if not (home.home / "datasets" / version).is_dir():
            yield Garbage(page, disk_bytes(page), "page of a dataset version that is gone")
        elif unused and version not in newest:
            yield Garbage(page, disk_bytes(page), "page of a dataset version that has a newer one")


def _referenced(home: Home) -> set[tuple[str, str]]:
    """(stage, fingerprint) that are current or that a living run plans with.

    With those of datasets and feature sets, and all that these build on, recursively; all there are
    where a note that may name one is damaged.
    """
    try:
        return _reached(home)
    except (FoleyError, KeyError, TypeError) as exc:
        _log.warning("all commits count as in use: %s", exc)
        return set(home.commits_folders())


def _reached(home: Home) -> set[tuple[str, str]]:
    versions = map(read_dataset, home.home.glob("datasets/*/dataset.json"))
    waiting = [item for dataset in versions for item in dataset.fingerprints.items()]
    for path in home.folder("features").glob("*/_features.json"):
        waiting += read_json(path)["fingerprints"].items()
    for item in home.commits_folders():
        with unless_held(use_file(home.commits_folder(*item))) as free:
            waiting += [] if free else [item]
    for path in home.home.glob("commits/*/CURRENT"):
        stage = path.parent.name
        waiting.append((stage, home.descriptor(stage, home.current(stage) or "").fingerprint))
    referenced: set[tuple[str, str]] = set()
    while waiting:
        item = waiting.pop()
        if item not in referenced:
            referenced.add(item)
            if (home.commits_folder(*item) / "stage.json").exists():
                waiting += home.descriptor(*item).upstream.items()
    return referenced
