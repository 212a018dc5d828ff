"""A child ends with its parent, in whatever way and however early that one ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.foley.commands import ROOT

PARENT = """
import os, signal, sys
from pathlib import Path
from flows.server.processes import start
log, fd, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
child = start(["http.server", "0", "--bind", "127.0.0.1"], log, {"PYTHONUNBUFFERED": "1"}, [fd])
while when == "serving" and "Serving" not in log.read_text():
    assert child.poll() is None
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["at once", "serving"])
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path, when: str) -> None:
    reading, writing = os.pipe()  # open at its other end for as long as a child is there
    code = [sys.executable, "-c", PARENT, str(tmp_path / "log"), str(writing), when]
    try:
        parent = subprocess.run(code, cwd=ROOT, pass_fds=[writing], timeout=60, check=False)
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert parent.returncode == -9
        assert select.select([pipe], [], [], 60)[0], "the child is still there"
        assert pipe.read(1) == b""
