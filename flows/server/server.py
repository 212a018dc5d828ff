"""The Prefect server and workers that `foley up` keeps running for a home folder: where they are, start and stop.

Nothing here imports prefect, so that every command can ask whether there is a server to report to.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import is_locked, make_folder, read_json, write_json

#: user:password of the API; Prefect's own name, so that its clients and workers need no other
#: setting.
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_START_SECONDS = 600.0
_STOP_SECONDS = 60.0

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A run whose process is gone is found by its missing heartbeats, see
    # flows/server/automations.py.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # How soon a worker looks for runs, and the scheduler for due ones; Prefect's own are 10 s and
    # 60 s.
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "20",
    # Runs that ended 90 days ago go from Prefect's database, which else grows for ever; the
    # warehouse keeps a record.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    # Batches run side by side, one a core: threads inside an operator would only get in each
    # other's way.
    "OMP_NUM_THREADS": "1",
    # A training takes all cores: its threads then sleep while they wait, and leave the cores to
    # what runs beside it.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A worker's log is for what Prefect and we say.
    "PYTHONWARNINGS": "ignore",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Serving:
    """How the server of a home folder is run. `gpus` runs at once use a device."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 4200
    gpus: int = 1

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 (compared, not bound)
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
            "PREFECT_SERVER_UI_API_URL": "/api",  # so that the page asks the host that it came from
            "FOLEY_HOME": str(self.home),
        }
        if AUTH in os.environ:
            own["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]
        return SETTINGS | dict(os.environ) | own


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def found(home: Path) -> Serving | None:
    """The server that is up for a home folder, None when there is none."""
    known = _note(home)
    return Serving(home, known["host"], known["port"], known["gpus"]) if known else None


def _note(home: Path) -> dict[str, Any] | None:
    """What the supervisor that is up wrote down of itself.

    That of an earlier one, which was killed say, is none.
    """
    path = home / "prefect" / "up.json"
    if not is_locked(home / "locks" / "up.lock") or not path.is_file():
        return None
    known = read_json(path)
    try:
        os.kill(known["pid"], 0)
    except ProcessLookupError:
        return None
    return known


def start(serving: Serving) -> None:
    """Start server and workers in the background and return when the server answers.

    Raises FoleyError where one is up already, the port is taken, or it would be open to others
    without a password.
    """
    if found(serving.home):
        raise _up_already(serving)
    if not is_loopback(serving.host) and ":" not in os.environ.get(AUTH, ""):
        raise FoleyError(
            f"--host {serving.host} is open to other machines: set {AUTH}=user:password first"
        )
    _check_port(serving)
    for name in ("prefect", "locks", "tmp", "reports"):
        make_folder(serving.home / name)
    log = serving.folder / "supervisor.log"
    with clear_os_errors(f"write {log}"), log.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.server.supervisor",
                str(serving.home),
                serving.host,
                *map(str, _numbers(serving)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=serving.environment(),
        )
    _wait(serving, process)


def _up_already(serving: Serving) -> FoleyError:
    return FoleyError(f"it is up already: foley down --home {serving.home} stops it")


def _numbers(serving: Serving) -> tuple[int, int]:
    return serving.port, serving.gpus


def _check_port(serving: Serving) -> None:
    try:
        with socket.create_server((serving.host, serving.port), reuse_port=False):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise FoleyError(
            f"cannot serve on {serving.host} port {serving.port}: {why}: choose another --port"
        ) from error


def _wait(serving: Serving, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while not (
        (known := _note(serving.home))
        and known["pid"] == process.pid
        and answers(serving.host, serving.port)
    ):
        if process.poll() is not None:
            raise _up_already(serving) if known else _not_started(serving, "did not start")
        if time.monotonic() > end:
            process.send_signal(signal.SIGTERM)
            raise _not_started(serving, f"did not answer for {_START_SECONDS:.0f} s")
        time.sleep(0.2)


def _not_started(serving: Serving, what: str) -> FoleyError:
    return FoleyError(f"the server {what}: see the logs in {serving.folder}")


def answers(host: str, port: int, seconds: float = 10.0) -> bool:
    """Whether the API there says within `seconds` that it is well."""
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 (compared, not bound)
    connection = HTTPConnection(host, port, timeout=seconds)
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
    known = _note(home)
    if known is None:
        return False
    pid = int(known["pid"])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _STOP_SECONDS
    while found(home):
        if time.monotonic() > end:
            raise FoleyError(
                f"process {pid} does not end: see {home / 'prefect' / 'supervisor.log'}"
            )
        time.sleep(0.1)
    return True


def note(serving: Serving) -> None:
    """Write down where the server of the home folder is.

    The caller holds its lock and is its supervisor.
    """
    state = {"host": serving.host, "port": serving.port, "gpus": serving.gpus, "pid": os.getpid()}
    write_json(serving.home / "tmp", serving.folder / "up.json", state)
