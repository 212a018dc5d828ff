"""Commands that are stopped: by Ctrl-C, by SIGTERM, by a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.generation.joining import join
from tests.foley.commands import ROOT, environment, foley
from tests.pipeline.media.samples import write_sample

#: As in a terminal: what a shell starts in the background, as it may have these tests, ignores
#: SIGINT. By a command, since Python code between fork and exec may crash beside other threads.
HEARS_CTRL_C = ("env", "--default-signal=INT")


def test_ctrl_c_counts_also_where_python_drops_it() -> None:
    code = """
from threading import Event
from foley.cli.quiet import keep_interrupts
class Dropping:
    def __del__(self): raise KeyboardInterrupt
keep_interrupts()
try:
    Dropping()
    Event().wait(60)
except KeyboardInterrupt:
    print("kept")
"""
    done = subprocess.run(
        [*HEARS_CTRL_C, sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "kept\n"


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(api: str, few: Path, tmp_path: Path) -> None:
    from warehouse import Warehouse

    home = tmp_path / "home"
    arguments = ["curate", str(few), "--home", str(home), "--workers", "1"]
    process = subprocess.Popen(
        [*HEARS_CTRL_C, sys.executable, "-m", "foley.cli.main", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(
        home.glob("commits/probe/*/*.parquet")
    ):  # the first stage is done, seven are to come
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("stopped: "), err
    assert "Traceback" not in err
    assert [run["state"] for run in Warehouse(home).records("runs")] == ["cancelled"]
    done = foley(*arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(run["state"] for run in Warehouse(home).records("runs")) == [
        "cancelled",
        "completed",
    ]


@pytest.mark.slow
def test_a_sound_that_is_stopped_while_it_is_written_leaves_no_part(tmp_path: Path) -> None:
    """By SIGTERM, as a machine's end or a job's limit sends it."""
    write_sample(tmp_path / "long.mp4", [i / 25 for i in range(1500)], None)
    made = tmp_path / "made"
    made.mkdir()
    arguments = ["generate", "long.mp4", "--prompt=", "--out=made/long.mkv", "--steps=2"]
    with subprocess.Popen(
        [sys.executable, "-m", "foley.cli.main", *arguments],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not any(made.glob(".*.partial")):
            assert process.poll() is None, process.communicate()
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(60) == 143
    # that a file of this name is ours stands there before it
    assert {path.name for path in made.iterdir()} <= {"long.mkv.json"}


def test_a_film_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    """By SIGTERM nothing; what a kill leaves is gone after the next run."""
    long = tmp_path / "long.mp4"
    write_sample(long, [i / 25 for i in range(500)], None)
    made = tmp_path / "made"
    command = [sys.executable, "-m", "foley.cli.main", "join", *[str(long)] * 20]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        with subprocess.Popen(
            [*command, "--out", str(made / "film.mov")], cwd=ROOT, env=environment()
        ) as process:
            while not any(made.glob(".foley-join-*.folder/*")):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            assert process.wait(60) == code
        left = sorted(made.iterdir())
        assert bool(left) == (number == signal.SIGKILL), left
    join([long], made / "film.mov")
    assert sorted(path.name for path in made.iterdir()) == ["film.edl", "film.mov"]
