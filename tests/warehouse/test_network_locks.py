"""A home on NFS: its client gives `flock` as locks of byte ranges, and so do these tests.

What differs from a local disk: only files are locked between machines, an exclusive lock needs a
handle that may write, a shared one a handle that may read. Linux's locks of open file descriptions
are just that, so real ones stand in for NFS, which this project has no server of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from foley.cli.main import cli
from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import facts_of, make_files, run_all, stages
from warehouse import FoleyError, Warehouse, compact, gc, home, query, verify
from warehouse.files import file_lock, is_locked

HASHES = fingerprints(stages())


def flock_of_nfs(handle: Any, operation: int) -> None:
    """See nfs(5) and flock(2), "NFS details"."""
    fd = handle if isinstance(handle, int) else handle.fileno()
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(errno.EISDIR, "seen by this machine alone")
    kind = fcntl.F_WRLCK if operation & fcntl.LOCK_EX else fcntl.F_RDLCK
    command = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)


def test_a_warehouse_asks_for_no_lock_that_nfs_does_not_give(nfs: None, tmp_path: Path) -> None:
    first, other = Warehouse(tmp_path / "home"), Warehouse(tmp_path / "home")
    first.ingest(make_files(tmp_path / "media", 20))
    for stage in stages():
        plan(first, stage, HASHES)
    for stage in stages(gain=2.0):  # from now on these are current
        plan(other, stage, fingerprints(stages(gain=2.0)))
    run_all(first, stages())
    rows = facts_of(first)
    gc(other, dry_run=False, unused=True)
    compact(other, at_least=2)
    assert facts_of(first) == rows, "the first machine plans with it"
    with file_lock(other.lock_path("x")), file_lock(first.lock_path("x"), wait=False) as free:
        assert not free
        assert is_locked(first.lock_path("x"))
    other.publish()
    assert query(other.home, "select count(*) as n from clips").to_pylist() == [{"n": 20}]
    assert verify(other) == []


REFUSED: dict[str, str] = {
    "nfs4 rw,vers=4.2,local_lock=none": "",
    "nfs rw,vers=3,nolock,local_lock=all": "locks stay on this machine",
    "nfs rw,vers=3,local_lock=flock": "locks stay on this machine",
    "ext4 rw": "",
    "fuse.gcsfuse rw,user_id=0": "object store",
    "fuse.s3fs rw": "object store",
    "fuse.goofys rw": "object store",
    "fuse.rclone rw": "object store",
    "fuse.mountpoint-s3 rw": "object store",
    "mountpoint-s3 rw": "object store",
    "fuse mountpoint-s3 rw": "object store",
    "fuse goofys#bucket rw": "object store",
    "fuse.juicefs rw": "",
    "fuseblk /dev/sdb1 rw": "",
}


@pytest.mark.parametrize("mount", REFUSED)
def test_a_file_system_that_cannot_hold_a_home_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str
) -> None:
    kind, options = mount.rsplit(" ", 1)
    kind += "" if " " in kind else " server:/x"
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    place = str(tmp_path / "a b").replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:1 / / rw - ext4 /dev/vda rw\n"
        f"23 22 0:2 / {place} rw,relatime shared:1 - {kind} {options}\n"
        f"24 22 0:3 / {place}c rw - tmpfs none rw\n"
    )
    monkeypatch.setattr(home, "_MOUNTS", table)
    for folder, expected in (
        ("a b", REFUSED[mount]),
        ("link", REFUSED[mount]),
        ("a bc", ""),
        ("other", ""),
    ):
        (tmp_path / folder / "clips").mkdir(parents=True, exist_ok=True)
        command = ["source", "add", str(tmp_path / folder / "clips"), "--home"]
        done = CliRunner().invoke(cli, [*command, str(tmp_path / folder / "home")])
        said = str(done.exception) if isinstance(done.exception, FoleyError) else ""
        assert ("cannot hold a home" in said) == bool(expected)
        assert expected in said
        assert (tmp_path / folder / "home").exists() == (not expected)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(FoleyError, match="needs locks and renames"):
        Warehouse(tmp_path / "home").publish()
    with pytest.raises(FoleyError, match="needs locks and renames"):
        plan(Warehouse(tmp_path / "home"), stages()[0], HASHES)
