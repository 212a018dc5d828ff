"""One run a device, by the environment alone: no GPU is needed to share them out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.running.devices import claim_devices, devices
from tests.foley.commands import ROOT
from warehouse import FoleyError

HOLDER = """
import os, sys
from flows.running.devices import claim_devices
with claim_devices(int(sys.argv[1]), lambda text: print(text, flush=True)):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
"""


class Run:
    """A process that has devices until it is told to end."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(count)],
            cwd=ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "4,GPU-7a", "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ends(self) -> str:
        return self.process.communicate("")[0].strip()


def test_runs_have_devices_to_themselves_and_those_of_a_killed_one_are_free(tmp_path: Path) -> None:
    first, second = Run(tmp_path), Run(tmp_path)
    assert {first.says(), second.says()} == {"4", "GPU-7a"}
    waiting = Run(tmp_path, count=2)
    assert "waiting for another run to end" in waiting.says()
    os.kill(first.process.pid, signal.SIGKILL)
    assert second.ends() == "4,GPU-7a"  # what it may use afterwards
    assert waiting.says() == "4,GPU-7a"
    waiting.ends()
    first.process.communicate()


def test_more_devices_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with (
        pytest.raises(FoleyError, match="2 devices are asked for, and there are 1"),
        claim_devices(2, print),
    ):
        pass


@pytest.mark.parametrize("none", ["", "-1"])
def test_without_devices_nobody_waits(none: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
    assert devices() == []
    with claim_devices(1, pytest.fail) as held:
        assert held == []
