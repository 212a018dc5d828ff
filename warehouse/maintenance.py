"""Keeping the warehouse in order: verify, release from quarantine, compact, sweep."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Commit, commit_id, footer, write_commit
from warehouse.datasets.versions import list_datasets, written_pages
from warehouse.errors import FoleyError
from warehouse.files import file_lock, is_abandoned, read_json
from warehouse.rows.live import REMOVAL, literal, live_sql, present, run_checked

if TYPE_CHECKING:
    from warehouse.commits import Listing
    from warehouse.home import Home

_COMPACT_ROWS = 65_536
_COMPACT_BYTES = 256 << 20


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    path: Path
    what: str


def verify(
    wh: Home, deep: bool = True, progress: Callable[[Path], None] | None = None
) -> list[Problem]:
    """Look for files that are not as they were written; `deep` reads every page and checks its checksum.

    Covers commits, dataset versions, feature shards and JSON records. A damaged commit does no harm
    to a run: its clips count as not done. Nothing is changed.
    """
    found: list[Problem] = []
    for stage, fingerprint in _folders(wh):
        listing = wh.listing(stage, fingerprint)
        found += [
            Problem(path, "is not of the size that its name promises") for path in listing.damaged
        ]
        for commit in listing.good if deep else ():
            found += _check(commit.path, commit.rows)
            if progress:
                progress(commit.path)
    for path in sorted(wh.home.glob("datasets/*/dataset.json")):
        found += _check_folder(
            path, lambda note: [("members.parquet", note["counts"]["clips"], None)], deep
        )
    for path in sorted(wh.home.glob("features/*/_features.json")):
        found += _check_folder(
            path, lambda note: [(s["file"], s["rows"], s["bytes"]) for s in note["shards"]], deep
        )
    for pattern in (
        "checkpoints/*/checkpoint.json",
        "evaluations/*.json",
        "sounds/*.json",
        "runs/*.json",
        "commits/*/*/stage.json",
    ):
        for path in sorted(wh.home.glob(pattern)):
            try:
                read_json(path)
            except FoleyError as exc:
                found.append(Problem(path, str(exc)))
    return found


def _check_folder(
    path: Path, files: Callable[[dict[str, Any]], list[tuple[str, int, int | None]]], deep: bool
) -> Iterator[Problem]:
    """Problems of the Parquet files that a dataset or feature set says it has."""
    try:
        listed = files(read_json(path))
    except (FoleyError, KeyError, TypeError) as exc:
        yield Problem(path, f"cannot be read: {exc}")
        return
    for name, rows, size in listed:
        file = path.parent / name
        if not file.is_file():
            yield Problem(file, "is missing")
        elif size is not None and file.stat().st_size != size:
            yield Problem(file, f"is not of {size} bytes")
        elif deep:
            yield from _check(file, rows)


def _check(path: Path, rows: int) -> Iterator[Problem]:
    """Read all of a Parquet file with its page checksums."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            count = sum(batch.num_rows for batch in file.iter_batches(batch_size=256))
        if count != rows:
            yield Problem(path, f"holds {count} rows instead of {rows}")
    except FileNotFoundError:
        return
    except (OSError, pa.ArrowException) as exc:
        yield Problem(path, f"is damaged: {str(exc)[:200]}")


def _folders(wh: Home) -> list[tuple[str, str]]:
    """Every (stage, fingerprint) that has a folder."""
    return [
        (p.parent.name, p.name) for p in sorted((wh.home / "commits").glob("*/*")) if p.is_dir()
    ]


def release(wh: Home, stage: str, reason_like: str | None = None) -> int:
    """Give failed clips of a stage (under its current fingerprint) all their attempts again; returns how many.

    `reason_like` is an SQL LIKE pattern for "<error>: <message>". Raises FoleyError for a stage
    that was never planned.
    """
    fingerprint = wh.current(stage)
    if fingerprint is None:
        raise FoleyError(
            f"no stage {stage!r} was planned yet; there are: {', '.join(wh.stages()) or 'none'}"
        )
    descriptor = wh.descriptor(stage, fingerprint)

    def work(listings: dict[str, Listing]) -> pa.Table:
        con = wh.cursor()
        try:
            con.register("present", present(wh, listings["clips"], descriptor.reads))
            live = live_sql(con, listings[stage], descriptor, ["generation", "error", "message"])
            like = (
                f"and concat(error, ': ', message) like {literal(reason_like)}"
                if reason_like
                else ""
            )
            where = f"where status = 'failed' {like}"
            return con.sql(
                f"select clip_id, input, generation from {live} {where} order by clip_id"
            ).to_arrow_table()
        finally:
            con.close()

    failed = run_checked(wh, {"clips": ("clips", "source"), stage: (stage, fingerprint)}, work)
    if failed.num_rows:
        rows = failed.to_pylist()
        id_ = commit_id(
            ["release", stage, fingerprint, *(f"{r['clip_id']} {r['generation']}" for r in rows)]
        )
        common = {
            "status": "released",
            "attempt": 0,
            "seconds": 0.0,
            "committed_at": datetime.now(UTC),
            "commit": id_,
        }
        rows = [{**row, **common, "generation": row["generation"] + 1} for row in rows]
        wh.commit(
            stage, fingerprint, id_, pa.Table.from_pylist(rows, schema=descriptor.all_columns)
        )
    return failed.num_rows


@dataclass(frozen=True)
class Compacted:
    """Commits of a stage that became one."""

    stage: str
    fingerprint: str
    files: int
    rows: int
    into: Path


def compact(wh: Home, stage: str | None = None, at_least: int = 4) -> list[Compacted]:
    """Merge small commits into large ones sorted by clip_id; `at_least` so many at a time.

    The merged commit is there before the small ones go, and rows that are in both count once; so
    nobody sees more or less than the truth. One compaction of a stage runs at a time, others skip
    it.
    """
    done: list[Compacted] = []
    for name, fingerprint in _folders(wh):
        if stage not in (None, name):
            continue
        with file_lock(wh.lock_path(f"compact-{name}-{fingerprint}"), wait=False) as mine:
            if mine:
                _remove(wh, _replaced(wh, name, fingerprint))
                groups = _groups(wh.listing(name, fingerprint).good, at_least)
                done += [_merge(wh, name, fingerprint, group) for group in groups]
    return done


def _groups(commits: tuple[Commit, ...], at_least: int) -> Iterator[list[Commit]]:
    """Small commits in groups that stay under the size of a large one.

    Only rows and sizes are looked at.
    """
    small = [c for c in commits if c.rows * 2 <= _COMPACT_ROWS and c.bytes * 2 <= _COMPACT_BYTES]
    group: list[Commit] = []
    for commit in small:
        rows, size = sum(c.rows for c in group), sum(c.bytes for c in group)
        if group and (rows + commit.rows > _COMPACT_ROWS or size + commit.bytes > _COMPACT_BYTES):
            if len(group) >= at_least:
                yield group
            group = []
        group.append(commit)
    if len(group) >= at_least:
        yield group


def _merge(wh: Home, stage: str, fingerprint: str, group: list[Commit]) -> Compacted:
    """Write the merged commit, then remove the ones it replaces."""
    tables = [pq.read_table(c.path, page_checksum_verification=True) for c in group]
    schema = wh.descriptor(stage, fingerprint).all_columns
    merged = pa.concat_tables([table.select(schema.names).cast(schema) for table in tables])
    merged = merged.take(pa.array(_order(merged)))
    names = [c.path.name for c in group]
    id_ = "c" + commit_id([stage, fingerprint, *names])
    path = write_commit(
        wh.tmp,
        wh.commits_folder(stage, fingerprint),
        id_,
        merged,
        {"commit": id_, "stage": stage, "replaces": names},
    )
    _remove(wh, [commit.path for commit in group])
    return Compacted(stage, fingerprint, len(group), merged.num_rows, path)


def _remove(wh: Home, paths: Sequence[Path]) -> None:
    """Remove commits that another holds too, but not under a query that asked for quiet."""
    if paths:
        with file_lock(wh.lock_path(REMOVAL)):
            for path in paths:
                path.unlink(missing_ok=True)


def _order(rows: pa.Table) -> list[int]:
    """Row numbers sorted by clip, input, generation and commit.

    A row that is in several files counts once.
    """
    keys = ["clip_id", "input", "generation", "commit", "status"]
    found = list(zip(*(rows[key].to_pylist() for key in keys), range(rows.num_rows), strict=True))
    found.sort()
    return [row[-1] for i, row in enumerate(found) if i == 0 or row[:-1] != found[i - 1][:-1]]


def _replaced(wh: Home, stage: str, fingerprint: str) -> list[Path]:
    """Commits that a compaction replaced and did not live to remove."""
    found: list[Path] = []
    for commit in wh.listing(stage, fingerprint).good:
        if commit.compacted:
            found += [commit.path.parent / name for name in footer(commit.path).get("replaces", [])]
    return [path for path in found if path.exists()]


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing needs."""

    path: Path
    bytes: int
    why: str


def gc(wh: Home, dry_run: bool = True, unused: bool = False) -> list[Garbage]:
    """Find, and with `dry_run` off remove, what dead runs left behind.

    That is: temporary files without a living writer, commits that compaction replaced, damaged
    commits of fingerprints that no dataset version or feature set refers to, and pages of dataset
    versions that are gone. With `unused` also all commits of fingerprints that are neither current
    nor referred to by those (going back to those settings then means work), and pages of versions
    that have a newer one (`foley report curation` writes them anew).
    """
    found = [*_temporary(wh), *_old_commits(wh, unused), *_old_pages(wh, unused)]
    if not dry_run:
        for garbage in found:
            if garbage.path.is_dir():
                shutil.rmtree(garbage.path, ignore_errors=True)
            else:
                _remove(wh, [garbage.path])
    return found


def _temporary(wh: Home) -> Iterator[Garbage]:
    for path in sorted(wh.tmp.iterdir()):
        if is_abandoned(path):
            yield Garbage(path, _size(path), "temporary, its writer is gone")


def _old_commits(wh: Home, unused: bool) -> Iterator[Garbage]:
    kept = referenced(wh)
    for stage, fingerprint in _folders(wh):
        needed = (stage, fingerprint) in kept or stage == "clips"
        if unused and not needed and wh.current(stage) != fingerprint:
            folder = wh.commits_folder(stage, fingerprint)
            yield Garbage(folder, _size(folder), "fingerprint neither current nor referred to")
            continue
        for path in _replaced(wh, stage, fingerprint):
            yield Garbage(path, _size(path), "replaced by compaction")
        for path in () if needed else wh.listing(stage, fingerprint).damaged:
            yield Garbage(path, _size(path), "damaged commit")


def _old_pages(wh: Home, unused: bool) -> Iterator[Garbage]:
    pages = written_pages(
        wh.home
    )  # before the versions are listed: a page is written after its version
    newest = {dataset.name: dataset.version for dataset in list_datasets(wh)}
    for version, page in pages.items():
        if not (wh.home / "datasets" / version).is_dir():
            yield Garbage(page, _size(page), "page of a dataset version that is gone")
        elif unused and version not in newest.values():
            yield Garbage(page, _size(page), "page of a dataset version that has a newer one")


def referenced(wh: Home) -> set[tuple[str, str]]:
    """(stage, fingerprint) that a dataset version, a feature set or a current stage builds on, upstreams included."""
    found: set[tuple[str, str]] = set()
    waiting = [item for dataset in list_datasets(wh) for item in dataset.fingerprints.items()]
    for path in wh.home.glob("features/*/_features.json"):
        waiting += read_json(path)["fingerprints"].items()
    for descriptor in wh.stages().values():
        waiting += descriptor.upstream.items()
    while waiting:
        item = waiting.pop()
        if item not in found:
            found.add(item)
            if (wh.commits_folder(*item) / "stage.json").exists():
                waiting += wh.descriptor(*item).upstream.items()
    return found


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(os.lstat(file).st_size for file in path.rglob("*") if file.is_file())
