"""The process behind `foley up`.

Runs Prefect's server and one worker a pool, and starts them again when they end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from flows.running.signals import PATIENCE
from flows.server.server import Serving, answers, found, note
from warehouse.files import file_lock

#: Work pools: what needs no device, and what does. deployments/prefect.yaml names them.
POOLS = ("foley", "foley-gpu")
_PATIENCE = 20.0  # seconds from the polite signal to the other one
_LONGEST_PAUSE = 30.0


@dataclass
class Child:
    """A process that is to be there; `pause` grows each time that it ends soon after its start."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    due: float = field(default_factory=time.monotonic)

    def keep(self, folder: Path) -> None:
        """Start it where it is not running and the pause is over."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            self.pause = (
                min(_LONGEST_PAUSE, max(1.0, self.pause * 2)) if now - self.started < 60 else 1.0
            )
            self.due = now + self.pause
            print(
                f"{self.name} ended with {self.process.returncode}, again in {self.pause:.0f} s",
                flush=True,
            )
            self.process = None
        if now < self.due:
            return
        with (folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (this process has no threads)
            )
        self.started = now

    def stop(self) -> None:
        """End it: politely, then not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed, so that no server keeps the port."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _runs(serving: Serving) -> set[int]:
    """Process groups of this server's runs on this machine.

    Each leads one, and outlives a worker that is killed.
    """
    ours = {f"PREFECT_API_URL={serving.address}/api", f"FOLEY_HOME={serving.home}"}
    found: set[int] = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended, or is another user's
            variables = file.read_bytes().decode(errors="replace").split("\0")
            if ours <= set(variables) and any(
                name.startswith("PREFECT__FLOW_RUN_ID=") for name in variables
            ):
                found.add(os.getpgid(int(file.parent.name)))
    return found - {os.getpgrp()}


def _signal(groups: Iterable[int], number: int) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def supervise(serving: Serving) -> None:
    """Keep server and workers running until SIGTERM or SIGINT."""
    stopping: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    python = [sys.executable, "-m"]
    where = ["--host", serving.host, "--port", str(serving.port)]
    quiet = [
        "--log-level",
        "warning",
        "--timeout-graceful-shutdown",
        "5",
        "--timeout-keep-alive",
        "5",
    ]
    server = Child(
        "server", [*python, "uvicorn", "flows.server.web_app:create", "--factory", *where, *quiet]
    )
    workers = [
        Child(
            f"worker-{pool}",
            [*python, "prefect", "worker", "start", "--type", "process", "--pool", pool],
        )
        for pool in POOLS
    ]
    try:
        while not stopping:
            server.keep(serving.folder)
            if any(worker.process for worker in workers) or answers(serving.host, serving.port):
                for worker in workers:
                    worker.keep(serving.folder)
            time.sleep(0.5)
    finally:
        for child in workers:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()  # all at once, then wait for each
        _signal(_runs(serving), signal.SIGTERM)
        for child in workers:
            child.stop()
        end = time.monotonic() + PATIENCE + 1
        while (
            _runs(serving) and time.monotonic() < end
        ):  # those whose worker was gone have the server until here
            time.sleep(0.2)
        _signal(_runs(serving), signal.SIGKILL)
        server.stop()


def main() -> None:
    """`python -m flows.server.supervisor HOME HOST PORT GPUS`, in the environment of `Serving.environment`."""
    home, host, port, gpus = sys.argv[1:]
    serving = Serving(Path(home), host, int(port), int(gpus))
    os.chdir(serving.folder)
    while found(serving.home) is None:
        with file_lock(serving.home / "locks" / "up.lock", wait=False) as mine:
            if mine:
                note(serving)
                supervise(serving)
                return
        time.sleep(0.1)  # somebody looks whether it is locked, or was first and has yet to say so


if __name__ == "__main__":
    main()
