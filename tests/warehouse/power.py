"""A power cut: what a disk still holds if it wrote only what was flushed.

Files keep the content that they had when they were last flushed, folders the names that they held
when they were. What was never flushed is gone. (Real disks write more than that, never less.)
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR

import pytest


class Disk:
    """What has reached the disk below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[int, dict[str, int]] = {}  # of a folder: its names, and which file each is
        self.contents: dict[int, bytes | None] = {}  # of a file; None for a folder
        self._take_in(root)

    def _take_in(self, folder: Path) -> None:
        """Everything that was there before counts as written."""
        for path in (folder, *folder.rglob("*")):
            self._flush(path)

    def _flush(self, path: Path) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            entries = list(os.scandir(path))
            self.names[number] = {entry.name: entry.inode() for entry in entries}
            for entry in entries:
                if entry.is_dir():
                    self.names.setdefault(entry.inode(), {})
                    self.contents[entry.inode()] = None
        else:
            self.contents[number] = path.read_bytes()

    def flushed(self, descriptor: int) -> None:
        """A process has flushed an open file or folder."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        if S_ISDIR(os.fstat(descriptor).st_mode):
            self._flush(path)
        else:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self.contents[os.fstat(descriptor).st_ino] = file.read()

    def restore(self, target: Path) -> Path:
        """What is there after the cut."""
        self._restore(self.root.stat().st_ino, target)
        return target

    def _restore(self, number: int, target: Path) -> None:
        target.mkdir()
        for name, entry in self.names[number].items():
            content = self.contents.get(entry, b"")  # a name without its content: an empty file
            if content is None:
                self._restore(entry, target / name)
            else:
                (target / name).write_bytes(content)


@contextmanager
def disk_of(root: Path) -> Generator[Disk]:
    """Watch what this process flushes below a folder."""
    disk, flush = Disk(root), os.fsync

    def fsync(file: int) -> None:
        flush(file)
        disk.flushed(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield disk
