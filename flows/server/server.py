"""The Prefect server and workers that `foley up` keeps running for a home folder.

Nothing here imports prefect, so that every command can ask whether there is a server to report to.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from flows.server import processes
from warehouse.errors import FoleyError
from warehouse.files import Json, is_locked, make_folder, read_json, write_json

#: user:password of the API; Prefect's own name, so that its clients need no other setting.
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
#: Work pools: what needs no device, and what does. deployments/prefect.yaml names them.
POOLS = (CPU_POOL, GPU_POOL) = ("foley", "foley-gpu")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_START_SECONDS = 600.0
_STOP_SECONDS = 60.0

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # flows/server/automations.yaml finds a run whose process is gone by its missing heartbeats.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "flows.server.event_order",
    # What automations wait for is kept until it was looked at, also by a server that was down or
    # busy. Prefect drops it 60 s after its time: then nobody is told of a failed run.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P1D",
    # How soon a worker looks for runs, and the scheduler for due ones; Prefect's are 10 s and 60 s.
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "20",
    # Prefect's database forgets runs that ended 90 days ago; the warehouse keeps a record.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    # Prefect's own server, where PREFECT_HOME is the user's: a busy machine takes long to start it.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    # Batches run side by side, one a core: threads inside an operator would be in their way.
    "OMP_NUM_THREADS": "1",
    # The threads of a training sleep while they wait, and leave the cores to what runs beside it.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A worker's log is for what Prefect and we say.
    "PYTHONWARNINGS": "ignore",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Serving:
    """Where the server of a home folder is."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 4200

    @property
    def address(self) -> str:
        """Where a browser on this machine reaches it."""
        host = _reachable(self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def folder(self) -> Path:
        """Prefect's own folder: database, logs, profile."""
        return self.home / "prefect"

    def environment(self) -> dict[str, str]:
        """Variables of the server, its workers and their runs."""
        own = {
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_SERVER_UI_API_URL": "/api",  # the page asks the host that it came from
            "FOLEY_HOME": str(self.home),
        }
        if os.environ.get(AUTH):
            own["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]
        return SETTINGS | dict(os.environ) | own

    def note(self) -> None:
        """Write down where it is; this process is its supervisor and holds its lock."""
        state = {"host": self.host, "port": self.port, "pid": os.getpid()}
        write_json(self.home / "tmp", self.folder / "up.json", state)


def running_server(home: Path) -> Serving | None:
    """The server that is up for a home folder, None when there is none."""
    note = _note(home)
    return Serving(home, note["host"], note["port"]) if note else None


def _note(home: Path) -> Json | None:
    """What the supervisor that is up wrote down; None where it is gone, killed say."""
    path = home / "prefect" / "up.json"
    if not is_locked(home / "locks" / "up.lock") or not path.is_file():
        return None
    note = read_json(path)
    return note if psutil.pid_exists(note["pid"]) else None


def check_address(host: str, port: int) -> None:
    """Raises FoleyError where the port is taken, or others could come in without a password."""
    if host not in _LOOPBACK and ":" not in os.environ.get(AUTH, ""):
        raise FoleyError(f"--host {host} is open to other machines: set {AUTH}=user:password first")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        place = f"{host} port {port}"
        why = error.strerror or str(error)
        raise FoleyError(f"cannot serve on {place}: {why}: choose another --port") from error


def start(serving: Serving, pools: Sequence[str] = POOLS) -> None:
    """Start server and a worker of each pool in the background; return when the server answers.

    Raises FoleyError where one is up already, the port is taken, or it would be open to others
    without a password.
    """
    if running_server(serving.home):
        raise _up_already(serving)
    check_address(serving.host, serving.port)
    for name in ("prefect", "locks", "tmp", "reports"):
        make_folder(serving.home / name)
    module = ["flows.server.supervisor", str(serving.home), serving.host, str(serving.port), *pools]
    log = serving.folder / "supervisor.log"
    elsewhere = {} if GPU_POOL in pools else {"FOLEY_GPU_STAGES": "pool"}  # other machines' workers
    environment = serving.environment() | elsewhere
    process = processes.start(module, log, environment, outlives_us=True)
    try:
        _wait(serving, process)
    except BaseException:
        process.kill()  # what it has started ends with it
        process.wait()
        raise


def _wait(serving: Serving, process: psutil.Popen) -> None:
    """Return when the server answers. Raises FoleyError where it does not, or another is up."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        note = _note(serving.home)
        if note and note["pid"] != process.pid:
            raise _up_already(serving)
        if note and answers(serving.host, serving.port):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise FoleyError(f"the server did not start: see the logs in {serving.folder}")
        time.sleep(0.2)


def _up_already(serving: Serving) -> FoleyError:
    return FoleyError(f"it is up already: foley down --home {serving.home} stops it")


def _reachable(host: str) -> str:
    """An address to ask at; one that stands for all of a machine's addresses is none."""
    return {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)  # noqa: S104 (not bound)


def answers(host: str, port: int, seconds: float = 10.0) -> bool:
    """Whether the API there says within `seconds` that it is well."""
    connection = HTTPConnection(_reachable(host), port, timeout=seconds)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def stop(home: Path) -> bool:
    """Stop what `start` started; False when nothing was up.

    Runs under way are told to end, and go on another time.
    """
    note = _note(home)
    if note is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(note["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while running_server(home):
        if time.monotonic() > deadline:
            log = home / "prefect" / "supervisor.log"
            raise FoleyError(f"process {note['pid']} does not end: see {log}")
        time.sleep(0.1)
    return True
