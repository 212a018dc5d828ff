"""Full disk, read-only folder, unreadable commit, clock going back.

A clear error, nothing lost, and on it goes.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import Facts, make_files, run_all, run_once, stages
from warehouse import FoleyError, Warehouse, release
from warehouse.files import file_lock


def _namespace() -> list[str]:
    """Command prefix for a mount namespace, empty where the system does not give one."""
    prefix = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    probe = [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    works = (
        shutil.which("unshare")
        and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )
    return prefix if works else []


NAMESPACE = _namespace()


@pytest.mark.slow
@pytest.mark.skipif(not NAMESPACE, reason="the system gives no mount namespace")
@pytest.mark.parametrize("scenario", ["full", "readonly"])
def test_a_hostile_disk_is_a_clear_error_and_the_next_run_goes_on(
    tmp_path: Path, scenario: str
) -> None:
    command = [*NAMESPACE, sys.executable, "-m", "tests.warehouse.hostile", scenario, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
@pytest.mark.parametrize("scenario", ["unreadable", "reader"])
def test_users_without_rights_get_what_they_may_and_nothing_is_lost(scenario: str) -> None:
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # pytest's own lie in folders that nobody else may enter
        Path(folder).chmod(0o777)
        command = [sys.executable, "-m", "tests.warehouse.hostile", scenario, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_what_fails_under_a_lock_is_no_failure_to_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"), file_lock(tmp_path / "lock"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_clock_going_back_changes_nothing(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 20))
    run_all(wh, stages())
    stage_hashes = fingerprints(stages())
    for stage, fingerprint in [("clips", "source"), *stage_hashes.items()]:
        for commit in wh.listing(stage, fingerprint).good:
            _date(wh, commit.path, stage, fingerprint, datetime(2099, 1, 1, tzinfo=UTC))
    assert [plan(wh, stage, stage_hashes).todo for stage in stages()] == [0, 0, 0]
    assert release(wh, "facts") == 4
    assert plan(wh, Facts(), stage_hashes).todo == 4
    (tmp_path / "media" / "0007.bin").write_bytes(b"mended" + bytes([3]))
    rows = make_files(tmp_path / "copy", 20).to_pylist()
    wh.ingest(
        pa.Table.from_pylist([{**r, "path": r["path"].replace("/copy/", "/media/")} for r in rows])
    )
    run_once(wh, stages())
    assert wh.rows("facts", stage_hashes["facts"], clip_ids=["clip0007"])["level"].to_pylist() == [
        3.0
    ]


def _date(wh: Warehouse, path: Path, stage: str, fingerprint: str, when: datetime) -> None:
    """Write a commit again as if it had been made at another time."""
    table = pq.read_table(path)
    times = pa.array([when] * table.num_rows, table.schema.field("committed_at").type)
    table = table.set_column(
        table.column_names.index("committed_at"), table.schema.field("committed_at"), times
    )
    id_ = path.name.split("-")[0]
    path.unlink()
    os.utime(wh.commit(stage, fingerprint, id_, table), (when.timestamp(), when.timestamp()))


def test_a_file_that_vanishes_is_a_failed_clip_with_its_reason(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    clips = make_files(tmp_path / "media", 5)
    (tmp_path / "media" / "0002.bin").unlink()
    result = wh.ingest(clips)
    assert (result.new, result.failed) == (5, 1)
    [row] = wh.clips(status="failed").to_pylist()
    assert (row["clip_id"], row["error"]) == ("clip0002", "FileNotFoundError")
    make_files(tmp_path / "media", 5)
    result = wh.ingest(clips)
    assert result.failed == 0
    assert result.changed >= 1
    assert wh.clips().num_rows == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"clip_id": "a", "path": "x"}], "source"),
        ([{"clip_id": "a", "path": "x", "source": "s"}] * 2, "twice"),
        ([{"clip_id": "a", "path": "x", "source": "s", "split": "training"}], "training"),
    ],
)
def test_clips_that_are_badly_described_are_a_clear_error(
    tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(FoleyError, match=message):
        Warehouse(tmp_path).ingest(pa.Table.from_pylist(rows))


@pytest.mark.parametrize("name", ["../evil", "", ".hidden", "a/b"])
def test_records_have_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(FoleyError):
        Warehouse(tmp_path).write_record("runs", name, {})


def test_a_pipe_named_like_a_clip_is_a_failed_row_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    wh = Warehouse(tmp_path / "home")
    clip = {"clip_id": "pipe", "path": str(tmp_path / "pipe.mp4"), "source": "folder"}
    assert wh.ingest(pa.Table.from_pylist([clip])).failed == 1
    row = wh.clips(None, status="failed").to_pylist()[0]
    assert row["message"] == "not a regular file"
