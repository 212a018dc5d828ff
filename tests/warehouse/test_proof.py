"""Short crash and readers tests, each in a process that is fit for forking."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def run(*command: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing() -> None:
    assert run("tests.warehouse.crash", "--kills", "6", "--seed", "3")["kills"] == 6


@pytest.mark.slow
def test_readers_never_fail_and_never_see_half_a_commit() -> None:
    done = run("tests.warehouse.readers", "--seconds", "8", "--readers", "4")
    assert all(done[kind] > 0 for kind in ("reads", "ingests", "publications", "compactions")), done
