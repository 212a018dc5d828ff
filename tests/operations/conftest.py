"""One factory for all tests of operations, with a listener for its notifications."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.operations.factory import Factory, foley, free_port, until


class Told:
    """A web server on the loopback address that keeps what is posted to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.messages.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook?token=s3cret"


@pytest.fixture(scope="session")
def told() -> Iterator[Told]:
    listener = Told()
    yield listener
    listener.server.shutdown()


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[Factory]:
    """`foley up`, and at the end `foley down`, which leaves no process behind."""
    found = Factory(tmp_path_factory.mktemp("factory") / "home", free_port())
    done = foley("up", "--home", found.home, "--port", str(found.port), "--webhook", told.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"UI: {found.address}\n")
    yield found
    done = foley("down", "--home", found.home)
    assert done.stdout == "stopped\n", done
    until(lambda: not found.processes(), 30, "every process of the factory is gone")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips of 2 s and one bad one of every kind."""
    from pipeline.procedural import write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, 10, seed=7, seconds=2.0)
    return folder


@pytest.fixture(scope="session")
def curated(factory: Factory, clips: Path) -> str:
    """Id of a finished curate run, as the form starts it."""
    id = factory.start("curate", folder=str(clips), source="small", batch_size=6, max_attempts=1)
    factory.reaches(id, "COMPLETED")
    return id
