"""Scenarios on hostile disks, run by test_hostile.py in a mount namespace.

python -m tests.warehouse.hostile full|readonly|unreadable|reader FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# pyright: ignore[reportUnusedImport] (loaded while this user may read it)
import duckdb  # noqa: F401  # pyright: ignore[reportUnusedImport] (loaded while this user may read it)
from click.testing import CliRunner

from foley.cli.main import cli
from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import facts_of, make_files, run_all, run_once, stages
from warehouse import FoleyError, Warehouse, gc, query, verify


def refused(action: Callable[[], object], message: str) -> None:
    """Assert that an action is refused with a clear error."""
    try:
        action()
    except FoleyError as exc:
        if message not in str(exc) or "\n" in str(exc):
            raise AssertionError(f"refused with another error: {exc}") from exc
    else:
        raise AssertionError(f"nothing was refused: expected {message}")


def prepare(folder: Path) -> Warehouse:
    """A warehouse with some work done and some left."""
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 20))
    run_once(wh, stages()[:1])
    wh.publish()
    return wh


def full(folder: Path) -> None:
    """Fill the disk, see every writer refuse clearly, free it, and finish."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    wh = prepare(folder)
    before = query(wh.home, "from funnel").to_pylist()
    wh.write_record("runs", "news", {"flow": "curate"})
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as handle:
        try:
            while handle.write(b"x" * 4096):
                pass
        except OSError:
            pass
    refused(lambda: run_once(wh, stages()), "disk is full")
    refused(lambda: wh.write_record("runs", "r", {"x": "y" * 9000}), "disk is full")
    refused(wh.publish, "full")
    assert query(wh.home, "from funnel").to_pylist() == before, "the old catalog stays"
    ballast.unlink()
    finish(wh, folder)


def readonly(folder: Path) -> None:
    """Make the disk read-only, see every writer refuse clearly, make it writable, and finish."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    wh = prepare(folder)
    before = query(wh.home, "from funnel").to_pylist()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    refused(lambda: run_once(wh, stages()), "read-only")
    refused(lambda: wh.write_record("runs", "r", {}), "read-only")
    refused(wh.publish, "read-only")
    refused(lambda: Warehouse(folder / "other"), "read-only")
    assert query(wh.home, "from funnel").to_pylist() == before, "reading goes on"
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    finish(wh, folder)


def unreadable(folder: Path) -> None:
    """For a user without rights a commit that may not be read stops the run.

    Once mended, the run goes on.
    """
    in_child(lambda: prepare(folder))
    [victim, *_] = sorted(folder.glob("home/commits/facts/*/*.parquet"))
    victim.chmod(0)

    def as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        wh = Warehouse(folder / "home")
        refused(lambda: plan(wh, stages()[0], fingerprints(stages())), "permission denied")

    in_child(as_nobody)
    victim.chmod(0o644)
    finish(Warehouse(folder / "home"), folder)


def reader(folder: Path) -> None:
    """Somebody who may not write gets `status` and `sql`, also beside damage."""
    home = folder / "home"
    sql = ["sql", "select count(*) as clips from clips", "--format", "csv", "--home", str(home)]
    commands = {"clips": sql, "facts": ["status", "--home", str(home)]}

    def ask() -> None:
        for word, command in commands.items():
            done = CliRunner().invoke(cli, command)
            assert done.exit_code == 0, f"{done.output} {done.exception}"
            assert word in done.output

    in_child(lambda: prepare(folder).write_record("runs", "gone", {"state": "running"}))

    def as_nobody() -> None:
        ask()  # loads what only root may read
        (home / "sources").rmdir()  # as in a home that an older foley made
        [victim, *_] = sorted(home.glob("commits/facts/*/*.parquet"))
        raw = victim.read_bytes()
        victim.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        os.setgid(65534)
        os.setuid(65534)
        ask()

    in_child(as_nobody)
    finish(Warehouse(home), folder)


def in_child(action: Callable[[], object]) -> None:
    """Do something in a process of its own, with the modules that are loaded here."""
    pid = os.fork()
    if not pid:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def finish(wh: Warehouse, folder: Path) -> None:
    """The next run goes on; in the end everything is as if nothing had happened."""
    run_all(wh, stages())
    wh.publish()
    calm = Warehouse(folder / "calm")
    calm.ingest(wh.clips(["clip_id", "path", "source", "source_video", "prompt", "url"]))
    run_all(calm, stages())
    assert facts_of(wh) == facts_of(calm)
    assert verify(wh) == []
    gc(wh, dry_run=False)
    assert list(wh.tmp.iterdir()) == []


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
