"""A factory as an operator has it.

`foley up` in a folder of its own, and Prefect's REST API to ask.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.foley.commands import ROOT, environment
from warehouse import Warehouse

T = TypeVar("T")
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
#: Prefect looks for work every second, a person would wait a little longer, and see the same.
IMPATIENT = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    # and that a worker is dead after three times this, not after 90 s
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "5",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def foley(*arguments: str | Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """The command with no Prefect settings but its own."""
    prefect: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("PREFECT_")
    }
    command = [sys.executable, "-m", "foley.cli.main", *map(str, arguments)]
    variables = environment(**(prefect | changes))
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=1200, check=False
    )


def until(what: Callable[[], T | None], seconds: float, why: str) -> T:
    """The first true value; an error that says what did not come about."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not in {seconds:.0f} s: {why}")
        time.sleep(0.2)
    return value


def _client() -> httpx.Client:
    """Keeps no connection: a server closes those that a busy machine lets idle."""
    return httpx.Client(timeout=600, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(frozen=True)
class Factory:
    """What is up, and its API."""

    home: Path
    port: int
    client: httpx.Client = field(default_factory=_client, compare=False)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, method: str, path: str, json: Any) -> httpx.Response:
        """An answer of the API.

        Asked again, when it says to, where the server says that its database is busy.
        """
        while True:
            answer = self.client.request(method, f"{self.address}/api{path}", json=json)
            if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                return answer
            time.sleep(float(answer.headers.get("Retry-After", 1)))

    def ask(self, path: str, method: str = "GET", json: Any = None) -> Any:
        content = None if method == "GET" else json if json is not None else {}
        answer = self.send(method, path, content)
        assert answer.is_success, (path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask(f"/deployments/name/{name}/{name}")

    def submit(self, name: str, /, **parameters: Any) -> httpx.Response:
        """What a click on Run sends."""
        body = {"parameters": {"parameters": parameters}, "state": {"type": "SCHEDULED"}}
        return self.send(
            "POST", f"/deployments/{self.deployment(name)['id']}/create_flow_run", body
        )

    def start(self, name: str, /, **parameters: Any) -> str:
        """Id of a run that was accepted."""
        answer = self.submit(name, **parameters)
        assert answer.is_success, answer.text
        return str(answer.json()["id"])

    def run(self, id: str) -> dict[str, Any]:
        return self.ask(f"/flow_runs/{id}")

    def reaches(self, id: str, *states: str, seconds: float = 600) -> dict[str, Any]:
        """The run once it is in one of the states; an error when it ends in another."""

        def there() -> dict[str, Any] | None:
            run = self.run(id)
            assert run["state_type"] in states or run["state_type"] not in ENDS, (
                run["state"],
                self.logs(id),
            )
            return run if run["state_type"] in states else None

        return until(
            there, seconds, f"{self.run(id)['name']} {' or '.join(states)}: {self.run(id)['state']}"
        )

    def moves(self, id: str) -> None:
        """Wait until a run's progress bar has left its start; what it does instead is told."""

        def share() -> float:
            assert (state := self.run(id)["state"])["type"] not in ENDS, (state, self.logs(id))
            return (self.artifacts(id).get("progress") or {}).get("data") or 0.0

        try:
            until(share, 600, "the bar moves")
        except AssertionError as error:
            doing = (self.run(id)["state"], self.artifacts(id), self.logs(id))
            raise AssertionError(f"{error}: {doing}") from None

    def told(self, id: str, **state: Any) -> None:
        """What a click on Cancel or Pause sends."""
        self.ask(f"/flow_runs/{id}/set_state", "POST", {"state": state, "force": True})

    def cancels(self, id: str) -> None:
        """Cancel a run.

        Its processes, of which there are some, end, and it is not started again.
        """
        assert self.processes(of_run=id)
        before = self.states(id)
        began = time.monotonic()
        self.told(id, type="CANCELLING")
        until(lambda: not self.processes(of_run=id), 300, "every process of the run is gone")
        print(f"cancelled: processes gone after {time.monotonic() - began:.1f} s")
        self.reaches(id, "CANCELLED")
        assert {state["type"] for state in self.states(id)[len(before) :]} == {
            "CANCELLING",
            "CANCELLED",
        }

    def states(self, id: str) -> list[dict[str, Any]]:
        return self.ask(f"/flow_run_states/?flow_run_id={id}")

    def logs(self, id: str) -> list[str]:
        chosen = {"logs": {"flow_run_id": {"any_": [id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        found = self.ask("/logs/filter", "POST", chosen)
        return [line["message"] for line in found]

    def artifacts(self, id: str) -> dict[str, dict[str, Any]]:
        """Newest artifact of every key of a run."""
        chosen = {
            "artifacts": {"flow_run_id": {"any_": [id]}},
            "sort": "CREATED_DESC",
            "limit": 200,
        }
        found = self.ask("/artifacts/filter", "POST", chosen)
        return {artifact["key"]: artifact for artifact in reversed(found) if artifact["key"]}

    def processes(self, of_run: str | None = None) -> list[int]:
        """Processes of this factory, or of one of its runs, by what is in their environment.

        What the worker starts after a run, to look for hooks of its flow, does not count as the
        run's.
        """
        wanted = (
            f"PREFECT__FLOW_RUN_ID={of_run}" if of_run else f"PREFECT_API_URL={self.address}/api"
        )
        found = [pid for pid, variables in _environments() if wanted in variables]
        return [
            pid for pid in found if not of_run or "hook" not in _read(Path(f"/proc/{pid}/cmdline"))
        ]

    def worker(self, pool: str) -> int | None:
        """Process of a pool's worker, None while there is none."""
        for pid in self.processes():
            command = _read(Path(f"/proc/{pid}/cmdline"))
            if "worker" in command and pool in command:
                return pid
        return None


def waits(factory: Factory, id: str) -> bool:
    return any("waiting for it" in line for line in factory.logs(id))


def records(home: Path, flow: str) -> list[tuple[str, str | None]]:
    """(state, id of the flow run) of a flow's run records, oldest first."""
    found = [record for record in Warehouse(home).records("runs") if record["flow"] == flow]
    return [
        (run["state"], run["flow_run_id"])
        for run in sorted(found, key=lambda run: run["started_at"])
    ]


def _environments() -> list[tuple[int, set[str]]]:
    found: list[tuple[int, set[str]]] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        found.append((int(path.parent.name), _read(path)))
    return found


def _read(path: Path) -> set[str]:
    """The texts in one of a process's files; none where it is gone or a zombie."""
    try:
        return set(path.read_bytes().decode(errors="replace").split("\0"))
    except OSError:
        return set()
