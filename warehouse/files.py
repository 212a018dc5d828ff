"""Durable files, locks that end with their process, and hashes.

A file is written aside, flushed and renamed, then its folder is flushed. Temporary files lie in
HOME/tmp and are held under `flock` while they are written, so whatever can be locked there was left
by a dead process. Clocks and process ids play no part.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from warehouse.errors import FoleyError, clear_os_errors


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents durably; existing ones are left alone."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with clear_os_errors(f"create {path}"):
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
    return path


def _open_locked(path: Path) -> BinaryIO:
    """Create `path` and lock it; retried when a sweep removed it between the two steps."""
    while True:
        handle = open(path, "xb")  # noqa: SIM115 (the caller closes it)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle.fileno()).st_nlink:
            return handle
        handle.close()


def write_file(
    tmp: Path, write: Callable[[BinaryIO], Any], target: Callable[[int], Path] | Path
) -> Path:
    """Write a file that is there in full or not at all; an existing one is replaced.

    Args:
        tmp: folder in which the file is written aside.
        write: fills the open file.
        target: final path, or a function that computes it from the size in bytes.

    Raises FoleyError when the disk is full, read-only or forbidden; nothing is left behind then.

    """
    aside = tmp / f"{uuid.uuid4().hex}.part"
    with clear_os_errors(f"write under {tmp.parent}"):
        try:
            with _open_locked(aside) as handle:
                write(handle)
                handle.flush()
                os.fsync(handle.fileno())
                final = target if isinstance(target, Path) else target(handle.tell())
                os.replace(aside, final)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(final.parent)
    return final


def write_json(tmp: Path, target: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object atomically, keys in order given."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    return write_file(tmp, lambda handle: handle.write(text.encode()), target)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FoleyError when it is absent, unreadable or not an object."""
    with clear_os_errors(f"read {path}"):
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError:
            raise FoleyError(f"{path} does not exist") from None
        except ValueError as exc:
            raise FoleyError(f"{path} is not valid JSON ({exc}): delete it and run again") from None
    if not isinstance(value, dict):
        raise FoleyError(f"{path} does not hold a JSON object")
    return value


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def identity_hash(identity: object) -> str:
    """16 hexadecimal digits that name a value: of its JSON with sorted keys."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def disk_bytes(path: Path) -> int:
    """Bytes of a file, or of the files under a folder; what vanishes meanwhile is not counted."""
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in [path] if path.is_file() else inside:
        with suppress(OSError):
            total += os.lstat(file).st_size
    return total


@contextmanager
def scratch_folder(tmp: Path) -> Generator[Path, None, None]:
    """A temporary folder, locked while this process lives and removed at the end."""
    aside = tmp / f"{uuid.uuid4().hex}.folder"
    aside.mkdir()
    with open(aside / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(tmp: Path, target: Path) -> Generator[Path, None, None]:
    """Fill a folder aside, then move it to `target` in one step.

    When another process was first, its folder stays and this one is dropped: both hold the same,
    because such folders are named after their content.
    """
    with clear_os_errors(f"write {target}"), scratch_folder(tmp) as aside:
        filled = aside / "filled"
        filled.mkdir()
        yield filled
        sync_folder(filled)
        if not target.exists():
            os.rename(filled, target)
            sync_folder(target.parent)


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Generator[bool, None, None]:
    """Hold an exclusive lock between processes.

    Yields False when `wait` is off and another one holds it.
    """
    with clear_os_errors(f"lock {path}"), open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock; several can look at once."""
    try:
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder has no living writer."""
    target = path / ".lock" if path.is_dir() else path
    try:
        with open(target, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return path.is_dir()
