"""Where the runs of a command report to: a server that is there, or one for this process alone.

Nothing here imports prefect in this process: Prefect reads its settings when it is first imported.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from pathlib import Path

from flows.server.processes import end, start
from flows.server.server import SETTINGS, answers, running_server
from warehouse.errors import FoleyError
from warehouse.files import make_folder

_EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}
# The terminal shows progress; every log line still goes to Prefect's API. Of its own workings it
# would tell that a busy server did not take one heartbeat, which is followed by another.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
}


def set_up_prefect(home: Path) -> EmbeddedServer | None:
    """Settle where the flows of this process report to; once a process, before prefect is imported.

    With PREFECT_API_URL set runs report there; with PREFECT_HOME set, that Prefect configuration
    decides. With neither, they report to the server that `foley up` keeps for the home folder, or,
    where there is none, to an embedded one with its database under HOME/prefect, which starts in
    the background and is returned.
    """
    for name, value in {**SETTINGS, **_QUIET}.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return None
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    if serving := running_server(home):
        os.environ |= serving.environment()
        return None
    server = EmbeddedServer(home)
    server.start()
    os.environ["PREFECT_API_URL"] = server.url
    return server


class EmbeddedServer:
    """Prefect's API on the loopback address, for this process and its children.

    It is what Prefect itself starts where no server is configured, save that it starts while the
    rest is imported, that this process need not import the server's code (6 s of processor time),
    and that it ends with this process, even with one that was killed. Call :meth:`wait` before the
    first flow.
    """

    def __init__(self, home: Path) -> None:
        """Take a port, so that the address is known at once; the log is HOME/prefect/server.log."""
        self.home = home
        self.log = home / "prefect" / "server.log"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """Address of the API, for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start the server without waiting for it.

        It is ended after Prefect's own exit handlers, which have sent the last states and logs.
        """
        make_folder(self.log.parent)
        with self._listener as listener:
            module = ["flows.server.embedded", str(listener.fileno())]
            own = _EPHEMERAL | {"FOLEY_HOME": str(self.home)}
            self._process = start(module, self.log, own, [listener.fileno()])
        atexit.register(end, [self._process], 15)

    def wait(self, seconds: float = 300.0) -> None:
        """Return when the server answers.

        Raises FoleyError if it ended, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        # the connection waits in the port's queue until the server accepts it
        while not answers("127.0.0.1", self.port, max(0.1, deadline - time.monotonic())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise FoleyError(f"Prefect's embedded server did not start: see {self.log}")


def _serve(listener: socket.socket) -> None:
    """Serve Prefect's API on an open socket until SIGTERM."""
    import uvicorn

    app = "flows.server.web_app:create"
    options = uvicorn.Config(
        app, factory=True, lifespan="on", log_level="error", timeout_graceful_shutdown=5
    )
    uvicorn.Server(options).run(sockets=[listener])


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
