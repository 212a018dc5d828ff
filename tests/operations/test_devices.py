"""One run a device, by the environment alone: no GPU is needed to share them out."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from flows.parameters import ScoreParameters
from flows.running.devices import chosen_devices, claim_devices, claimed_name, devices
from flows.running.recording import recorded
from tests.foley.commands import ROOT
from warehouse import FoleyError, Warehouse
from warehouse.files import file_lock

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


SETTLED = """
import os, time
from multiprocessing import get_context
from flows.running.devices import settle_on_one

def settle(turns, seen):
    shown = os.environ["CUDA_VISIBLE_DEVICES"]
    for _ in range(2):
        settle_on_one(2)
        seen.put(os.environ["CUDA_VISIBLE_DEVICES"])
        os.environ["CUDA_VISIBLE_DEVICES"] = shown
    turns.wait()

if __name__ == "__main__":
    spawn = get_context("spawn")
    turns, seen = spawn.Barrier(5), spawn.Queue()
    workers = [spawn.Process(target=settle, args=(turns, seen)) for _ in range(5)]
    for worker in workers[:4]:
        worker.start()
    first = sorted(seen.get() for _ in range(8))
    workers[4].start()
    last = {seen.get(), seen.get()}
    settle_on_one(2)
    print(*first, len(last), os.environ["CUDA_VISIBLE_DEVICES"])
"""


def test_workers_of_a_run_share_its_devices_two_each_and_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "settled.py").write_text(SETTLED)
    environment = {"CUDA_VISIBLE_DEVICES": "4,GPU-7a", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "settled.py"],
        cwd=tmp_path,
        env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    # the one above them still has all, and a fifth has one of them too
    assert done.stdout.split() == ["4"] * 4 + ["GPU-7a"] * 4 + ["1", "4,GPU-7a"]


def test_more_devices_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with (
        pytest.raises(FoleyError, match="2 devices are asked for, and there are 1"),
        claim_devices(2, print),
    ):
        pass


def test_a_device_that_is_named_is_taken_and_cpu_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7a")
    for device, expected in (("cuda:1", ["GPU-7a"]), ("cuda", ["4"]), ("cpu", [])):
        monkeypatch.setattr("flows.running.devices._claimed", [])
        with claim_devices(1, pytest.fail, device) as held:
            assert held == devices() == expected
            assert chosen_devices(claimed_name(device)) == expected
        assert devices() == ["4", "GPU-7a"]
    with pytest.raises(FoleyError, match="'cuda:2': this machine has 2"), _claim("cuda:2"):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(FoleyError, match="'cuda': this machine has no CUDA"), _claim("cuda"):
        pass


def _claim(device: str) -> AbstractContextManager[list[str]]:
    return claim_devices(1, pytest.fail, device)


@pytest.mark.parametrize("none", ["", "-1"])
def test_without_devices_nobody_waits(none: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
    assert devices() == []
    with claim_devices(1, pytest.fail) as held:
        assert held == []


def test_a_run_that_waits_for_another_of_its_kind_holds_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setattr("flows.running.devices._claimed", [])
    wh = Warehouse(tmp_path / "home")
    device = tmp_path / f"foley-{os.getuid()}" / "device-4.lock"
    device.parent.mkdir()
    free: list[bool] = []
    with ExitStack() as another:
        another.enter_context(file_lock(wh.lock_path("curate")))

        def end_the_other(line: logging.LogRecord) -> bool:
            if "another curate" in line.getMessage():
                with file_lock(device, wait=False) as held:
                    free.append(held)
                another.close()
            return True

        logger = logging.getLogger("runs")
        logger.addFilter(end_the_other)
        monkeypatch.setattr("flows.running.recording.get_run_logger", lambda: logger)
        parameters = ScoreParameters(home=wh.home, preset="toy", device="cuda")
        with caplog.at_level("INFO"), recorded(wh, "score", parameters, alone="curate"):
            assert devices() == ["4"]
    assert free == [True]
