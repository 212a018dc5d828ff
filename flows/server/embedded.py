"""Prefect's API in a child process, for runs where no server is configured.

It is what Prefect itself starts in that case, save that it starts in the background while the rest
is imported, that the parent need not import the server's code (6 s of processor time), and that it
ends with its parent, even one that was killed.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from flows.server.server import answers
from warehouse.errors import FoleyError, clear_os_errors

_EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class EmbeddedServer:
    """A server on the loopback address, for this process and its children.

    It starts in the background; call :meth:`wait` before the first flow. It ends when the
    interpreter does: after Prefect's own workers, which by then have sent the last states and logs.
    """

    def __init__(self, folder: Path) -> None:
        """Take a port, so that the address is known at once; `folder` is for the server's log."""
        self.log = folder / "server.log"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def start(self) -> None:
        """Start the server, without waiting for it.

        Raises FoleyError when its log cannot be written.
        """
        with clear_os_errors(f"write {self.log}"):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        with log, self._listener:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.server.embedded", str(self._listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[self._listener.fileno()],
                # Ctrl-C is for us: the server must outlive it to hear how the run ended
                start_new_session=True,
                env=os.environ | _EPHEMERAL,
            )
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Address of the API, for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self.port}/api"

    def wait(self, seconds: float = 300.0) -> None:
        """Return when the server answers.

        Raises FoleyError if it ended, or does not answer in time.
        """
        end = time.monotonic() + seconds
        # the connection waits in the port's queue until the server accepts it
        while not answers("127.0.0.1", self.port, max(0.1, end - time.monotonic())):
            if self._process.poll() is not None:
                raise FoleyError(f"Prefect's embedded server did not start: see {self.log}")
            if time.monotonic() > end:
                raise FoleyError(
                    f"Prefect's embedded server did not answer for {seconds:.0f} s: see {self.log}"
                )

    def stop(self) -> None:
        """End the server: it writes what it has received and goes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(descriptor: int) -> None:
    """Serve on the open socket until the parent closes our standard input, as it does by ending in any way."""
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
