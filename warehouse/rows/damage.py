"""Finds commits that are not as they were written and sets them aside: their clips are done again.

Commits of small columns are read whole by every process before it first uses them, because DuckDB
takes flipped bytes for values. Of commits with arrays the pages that are read are checked, and the
whole file once something is wrong. A file is set aside when it was wrong twice, the second time
from the disk, and is kept in HOME/damaged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from warehouse.commits import Commit, CommitListing, parse, reads_as_written
from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import make_folder

if TYPE_CHECKING:
    from warehouse.home import Home

_SMALL_ROW = 1024  # bytes: more than any row without arrays has
_SMALL_FILE = 64 << 10
_log = logging.getLogger("foley.warehouse")


class DamagedCommitError(Exception):
    """A reader could not make sense of the commit at this path."""


def trusted(home: Home, listing: CommitListing) -> CommitListing:
    """The commits to read: of the right size, and those of small columns with the right content."""
    for path in listing.damaged:
        set_aside(home, path)
    new = [commit for commit in listing.good if commit.path not in home.sound and _small(commit)]
    bad = {commit.path for commit in new if _put_away(home, commit)}
    home.sound.update({commit.path: True for commit in new if commit.path not in bad})
    left_out = bad | {path for path in home.sound if not home.sound[path]}
    return CommitListing(tuple(c for c in listing.good if c.path not in left_out), ())


def heal(home: Home, paths: Sequence[Path]) -> bool:
    """Set aside what is damaged among commits, small ones first; whether there was any."""
    commits = [commit for commit in map(parse, paths) if commit is not None]
    for small in (True, False):
        found = [_put_away(home, commit) for commit in commits if _small(commit) is small]
        if any(found):
            return True
    return False


def sound(home: Home, commits: Iterable[Commit]) -> list[Commit]:
    """Those commits whose every byte is right; the others are set aside."""
    return [commit for commit in commits if not _put_away(home, commit)]


def is_damaged(commit: Commit) -> bool:
    """Whether a commit reads wrong twice, so that a passing error of the disk costs nothing."""
    return not reads_as_written(commit) and not reads_as_written(commit, from_disk=True)


def set_aside(home: Home, path: Path) -> None:
    """Move a damaged file or folder under HOME to the same place under HOME/damaged.

    A folder beside those of its name there. Where this process may not, it leaves the file out of
    what it reads.
    """
    aside = home.home / "damaged" / path.relative_to(home.home)
    if aside.is_dir():  # no folder can replace one that holds something
        aside = aside.with_name(f"{aside.name}-{uuid4().hex[:8]}")
    try:
        make_folder(aside.parent)
        with clear_os_errors(f"move the damaged file {path}"):
            os.replace(path, aside)
    except FileNotFoundError:
        return
    except FoleyError as exc:
        _log.warning("%s is damaged and left out: %s", path, exc)
        home.sound[path] = False
        return
    home.sound.pop(path, None)
    _log.warning("%s is damaged: kept in %s, and what it held is done again", path, aside)


def set_aside_shard(home: Home, shard: Path) -> None:
    """Set aside every feature set that holds a damaged shard, under whichever name."""
    same: list[Path] = []
    for path in home.home.glob("features/*/*.parquet"):
        with suppress(FileNotFoundError):  # another reader may just have set it aside
            same += [path] if path.samefile(shard) else []
    for path in same:
        set_aside(home, path.parent)


def _put_away(home: Home, commit: Commit) -> bool:
    damaged = is_damaged(commit)
    if damaged:
        set_aside(home, commit.path)
    return damaged


def _small(commit: Commit) -> bool:
    return commit.bytes <= max(_SMALL_FILE, _SMALL_ROW * commit.rows)
