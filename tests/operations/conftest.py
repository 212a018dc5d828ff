"""One factory for all tests of operations, with a listener for its notifications."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.foley.commands import one_line_error
from tests.operations.factory import IMPATIENT, Factory, foley, free_port, until, waits
from warehouse import Warehouse
from warehouse.files import file_lock


class Told:
    """A web server on the loopback address that keeps what is posted to it.

    Who wants a file is never answered.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closing = threading.Event()
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.messages.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                told.closing.wait()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.address}/hook?token=s3cret"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="package")
def told() -> Iterator[Told]:
    listener = Told()
    yield listener
    listener.closing.set()
    listener.server.shutdown()


@pytest.fixture(scope="package")
def factory(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[Factory]:
    """`foley up`, twice at once, of which one is.

    And at the end `foley down`, which leaves no process behind.
    """
    home = tmp_path_factory.mktemp("factory") / "home"
    ports = [free_port(), free_port()]
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(
                *(foley, "up", "--home", home, "--port", str(port), "--webhook", told.url),
                **IMPATIENT,
            )
            for port in ports
        ]
    done, other = sorted((future.result() for future in both), key=lambda done: done.returncode)
    assert done.returncode == 0, done.stderr
    assert "up already" in one_line_error(other)
    found = next(
        f
        for f in (Factory(home, port) for port in ports)
        if done.stdout.startswith(f"UI: {f.address}\n")
    )
    automations = [made["name"] for made in found.ask("/automations/filter", "POST", {})]
    assert len(automations) == len(set(automations)), automations  # each would start what crashed
    yield found
    done = foley("down", "--home", found.home)
    assert done.stdout == "stopped\n", done
    try:
        until(lambda: not found.processes(), 300, "every process of the factory is gone")
    except AssertionError:
        left = [
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            for pid in found.processes()
        ]
        raise AssertionError(f"left after foley down: {left}") from None


@pytest.fixture(scope="package")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good clips of a second and one bad one of every kind."""
    from pipeline.procedural import Corpus, write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, Corpus(4, seed=7, seconds=1.0))
    return folder


@pytest.fixture(scope="package")
def curated(factory: Factory, clips: Path) -> str:
    """Id of a finished curate run, as the form starts it."""
    id = factory.start("curate", folder=str(clips), name="small", batch_size=6, max_attempts=1)
    factory.reaches(id, "COMPLETED")
    return id


@dataclass(frozen=True)
class Killed:
    """Two runs that live without work: one waits for a silent server.

    One of a schedule for a lock, and lost process and worker.
    """

    home: Path
    live: str
    dead: str


@pytest.fixture(scope="package")
def killed(
    factory: Factory, told: Told, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killed]:
    """Made before all tests of the factory, so that Prefect notices while these run."""
    home = tmp_path_factory.mktemp("killed") / "home"
    Warehouse(home)
    addresses = home.parent / "addresses.csv"
    addresses.write_text(f"url\n{told.address}/clip.mp4\n")
    with file_lock(home / "locks" / "maintenance.lock"):
        begin = datetime.now(UTC) + timedelta(seconds=20)
        due = f"DTSTART:{begin:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY;COUNT=5"
        once: dict[str, Any] = {"schedule": {"rrule": due, "timezone": "UTC"}, "active": True}
        once["parameters"] = {"parameters": {"home": str(home)}}
        upkeep = f"/deployments/{factory.deployment('maintenance')['id']}/schedules"
        [schedule] = factory.ask(upkeep, "POST", [once])
        live = factory.start("download", home=str(home), source=str(addresses), retries=100)
        begun = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
        chosen = {"flow_runs": begun | {"deployment_id": {"any_": [schedule["deployment_id"]]}}}
        dead = until(lambda: factory.ask("/flow_runs/filter", "POST", chosen), 300, "a run")[0][
            "id"
        ]
        factory.ask(f"{upkeep}/{schedule['id']}", "DELETE")
        for id in (live, dead):
            factory.reaches(id, "RUNNING")
        # a scheduler at work has made the schedule's other runs since; one of them would take the
        # place of the dead one while that waits to be started again
        others = {"flow_runs": chosen["flow_runs"] | {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        for run in factory.ask("/flow_runs/filter", "POST", others):
            factory.ask(f"/flow_runs/{run['id']}", "DELETE")
        until(partial(waits, factory, dead), 600, "it waits")
        worker = factory.worker("foley")
        assert worker
        os.kill(worker, signal.SIGKILL)
        for pid in factory.processes(of_run=dead):
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: factory.worker("foley") not in (None, worker),
            600,
            "the worker is started again",
        )
        yield Killed(home, live, dead)
