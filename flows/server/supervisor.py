"""The process behind `foley up`: keeps Prefect's server and one worker a pool running."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.server.processes import end, start
from flows.server.server import Serving, answers
from warehouse.files import file_lock

_PATIENCE = 20.0  # seconds from the polite signal to the other one
_PAUSE = 10.0  # seconds from one start to the next, of what ends again and again


@dataclass
class Child:
    """A process that is to be there: `module` is what `python -m` runs."""

    name: str
    module: list[str]
    process: psutil.Popen | None = None
    started: float = float("-inf")

    def keep(self, folder: Path) -> None:
        """Start it where it is not running, though not too often."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() < self.started + _PAUSE:
            return
        if self.process is not None:
            print(f"{self.name} ended with {self.process.returncode}: started again", flush=True)
        self.process = start(self.module, folder / f"{self.name}.log")
        self.started = time.monotonic()


def runs_of(serving: Serving) -> list[psutil.Process]:
    """Processes of this server's runs on this machine: a run outlives a worker that is killed."""
    ours = {"PREFECT_API_URL": f"{serving.address}/api", "FOLEY_HOME": str(serving.home)}
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (variables := process.info["environ"])  # None: it ended, or is another user's
        and ours.items() <= variables.items()
        and "PREFECT__FLOW_RUN_ID" in variables
    ]


def supervise(serving: Serving, pools: Sequence[str], stop: threading.Event) -> None:
    """Keep server and a worker a pool running until `stop` is set, then end them and their runs."""
    where = ["--host", serving.host, "--port", str(serving.port), "--log-level", "warning"]
    ending = ["--timeout-graceful-shutdown", "5", "--timeout-keep-alive", "5"]
    app = ["uvicorn", "flows.server.web_app:create", "--factory"]
    server = Child("server", [*app, *where, *ending])
    workers = [
        Child(f"worker-{pool}", ["prefect", "worker", "start", "--type", "process", "--pool", pool])
        for pool in pools
    ]
    try:
        while not stop.wait(0.5):
            server.keep(serving.folder)
            if workers[0].process or answers(serving.host, serving.port):
                for worker in workers:
                    worker.keep(serving.folder)
    finally:
        processes = [worker.process for worker in workers if worker.process]
        end([*processes, *runs_of(serving)], _PATIENCE)
        end(runs_of(serving), 1)  # what a worker started meanwhile
        end([server.process] if server.process else [], _PATIENCE)


def main() -> None:
    """`python -m flows.server.supervisor HOME HOST PORT POOL...`, with `Serving.environment`."""
    home, host, port, *pools = sys.argv[1:]
    serving = Serving(Path(home), host, int(port))
    os.chdir(serving.folder)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with file_lock(serving.home / "locks" / "up.lock"):
        serving.note()
        supervise(serving, pools, stop)


if __name__ == "__main__":
    main()
