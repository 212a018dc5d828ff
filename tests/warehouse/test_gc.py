"""What gc may not take: what living runs plan with, and what they are writing."""

from __future__ import annotations

import fcntl
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages.engine import fingerprints, plan, run_batch
from tests.foley.commands import ROOT
from tests.warehouse.toys import make_files, run_all, stages
from warehouse import Warehouse, gc
from warehouse.files import remove_abandoned, scratch_folder


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 12))
    return wh


def sweep(wh: Warehouse) -> None:
    """What `foley maintain --delete --unused` does in a process of its own."""
    gc(Warehouse(wh.home), dry_run=False, unused=True)


def test_gc_leaves_what_a_living_run_plans_with(wh: Warehouse) -> None:
    mine = fingerprints(stages())
    work = [(stage, plan(wh, stage, mine)) for stage in stages()]
    other = Warehouse(wh.home)
    for stage in stages(gain=2.0):
        plan(other, stage, fingerprints(stages(gain=2.0)))
    planned_with = [wh.commits_folder(stage.name, mine[stage.name]) for stage in stages()]
    for stage, planned in work:
        for batch in planned.batches:
            sweep(wh)
            run_batch(wh, stage, planned, batch)
    assert wh.rows("facts", mine["facts"], None).num_rows == 12
    assert wh.rows("text", mine["text"], None).num_rows == 12
    assert all(folder.exists() for folder in planned_with)
    assert gc(wh, unused=True) == [], "nor does it list them"


PLANS = """
import sys, signal
from tests.foley.commands import ROOT
from tests.warehouse.toys import stages
from pipeline.stages.engine import fingerprints, plan
from warehouse import Warehouse
wh = Warehouse(sys.argv[1])
for stage in stages():
    plan(wh, stage, fingerprints(stages()))
print("planned", flush=True)
signal.pause()
"""


@contextmanager
def ended(run: subprocess.Popen[str]) -> Generator[None]:
    try:
        yield
    finally:
        run.kill()


def test_what_a_killed_run_planned_with_is_free_at_once(wh: Warehouse) -> None:
    command = [sys.executable, "-c", PLANS, str(wh.home)]
    mine = wh.commits_folder("facts", fingerprints(stages())["facts"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run, ended(run):
        assert run.stdout is not None
        assert run.stdout.readline() == "planned\n"
        other = Warehouse(wh.home)
        for stage in stages(gain=2.0):
            plan(other, stage, fingerprints(stages(gain=2.0)))
        sweep(wh)
        assert mine.exists()
    sweep(wh)
    assert not mine.exists()
    run_all(wh, stages())
    assert wh.rows("facts", mine.name, None).num_rows == 12


def test_gc_leaves_a_folder_that_is_just_being_made(
    wh: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def then_gc(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if path.suffix == ".folder":
            sweep(wh)

    monkeypatch.setattr(Path, "mkdir", then_gc)
    with scratch_folder(wh.tmp) as folder:
        (folder / "file").write_text("kept")
        assert gc(wh) == [], "its writer lives"
        sweep(wh)
        assert (folder / "file").read_text() == "kept"
    assert list(wh.tmp.iterdir()) == []


def test_what_is_locked_since_it_was_listed_stays(wh: Warehouse) -> None:
    part = wh.tmp / "x.part"
    part.write_text("begun")
    with open(part, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        remove_abandoned(part)
        assert part.exists()
    remove_abandoned(part)
    assert not part.exists()


DEAD_WRITER = """
import os, signal, sys
from pathlib import Path
from warehouse.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("left")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_writers_folder_goes(wh: Warehouse) -> None:
    done = subprocess.run([sys.executable, "-c", DEAD_WRITER, wh.tmp], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(wh.tmp.iterdir())) == 2
    sweep(wh)
    assert list(wh.tmp.iterdir()) == []


def test_tasks_of_one_process_share_what_they_found_out(wh: Warehouse) -> None:
    first = pickle.loads(pickle.dumps(wh))
    plan(first, stages()[0], fingerprints(stages()))
    second = pickle.loads(pickle.dumps(wh))
    assert second.present is first.present is not None
    assert second is not wh
