"""The server's password, and who may start it; whether a server is up, asked by many at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from websockets import Origin, Subprotocol
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.server.server import AUTH, Serving, answers, running_server
from tests.foley.commands import ROOT, environment, one_line_error
from tests.operations.factory import foley, free_port, until
from warehouse.files import file_lock

PASSWORD = "somebody:s3cret"
ASKER = """
import sys
from pathlib import Path
from flows.server.server import running_server
print({running_server(Path(sys.argv[1])) is not None for _ in range(3000)})
"""
FIRST_RUN = """
import sys, time
from pathlib import Path
from flows.server.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
server.wait()
print("answers", flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder where a server was up, and was killed."""
    for name in ("prefect", "locks", "reports"):
        (tmp_path / name).mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    note = f'{{"host": "127.0.0.1", "port": 4200, "pid": {gone.pid}}}'
    (tmp_path / "prefect" / "up.json").write_text(note)
    (tmp_path / "locks" / "up.lock").touch()
    return tmp_path


def ask_together(home: Path) -> set[str]:
    """What two processes find that ask at the same time, again and again."""
    command = [sys.executable, "-c", ASKER, str(home)]
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(subprocess.run, command, cwd=ROOT, capture_output=True, text=True)
            for _ in range(2)
        ]
    return {future.result().stdout.strip() for future in asked}


def test_a_stopped_server_is_never_taken_for_one_that_is_up(home: Path) -> None:
    assert ask_together(home) == {"{False}"}
    with file_lock(home / "locks" / "up.lock"):  # the next one, before it wrote down where it is
        assert running_server(home) is None
        (home / "prefect" / "up.json").unlink()  # or the first of all
        assert running_server(home) is None


def test_a_server_that_is_up_is_always_found(home: Path) -> None:
    note = home / "prefect" / "up.json"
    note.write_text(f'{{"host": "127.0.0.1", "port": 4200, "pid": {os.getpid()}}}')
    with file_lock(home / "locks" / "up.lock"):
        assert ask_together(home) == {"{True}"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_no_server_is_open_to_others_without_a_password(host: str, tmp_path: Path) -> None:
    done = foley(
        "up", "--home", tmp_path, "--host", host, "--port", str(free_port()), **{AUTH: None}
    )
    assert AUTH in one_line_error(done)
    assert not (tmp_path / "prefect").exists()


@pytest.fixture
def guarded(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Our application on an address of its own, with a password.

    Without a database, which would take its time.
    """
    monkeypatch.setenv(AUTH, PASSWORD)
    monkeypatch.setenv("PREFECT_UI_URL", "https://foley.example")
    serving = Serving(home, "127.0.0.2", free_port())
    where = [
        "--host",
        serving.host,
        "--port",
        str(serving.port),
        "--lifespan",
        "off",
        "--log-level",
        "error",
    ]
    prefect: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("PREFECT_")
    }
    variables = environment(**(prefect | serving.environment()))
    command = [sys.executable, "-m", "uvicorn", "flows.server.web_app:create", "--factory", *where]
    process = subprocess.Popen(command, cwd=ROOT, env=variables)
    try:
        until(
            lambda: answers(serving.host, serving.port) or process.poll() is not None,
            300,
            "the server answers",
        )
        yield serving
    finally:
        process.kill()
        process.wait()


def test_prefect_takes_the_settings_that_keep_its_database_small(tmp_path: Path) -> None:
    code = "from prefect.settings import get_current_settings as s; "
    code += "print(*sorted(s().server.services.db_vacuum.enabled_vacuum_types))"
    variables = environment(**Serving(tmp_path).environment())
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["events", "flow_runs", "orphans"]


@pytest.mark.slow
def test_the_api_and_the_reports_want_the_password_and_their_own_page_and_name(
    guarded: Serving,
) -> None:
    (guarded.home / "reports" / "report.html").write_text("what was found")
    with httpx.Client(base_url=guarded.address, timeout=120) as client:
        for path in ("/api/admin/version", "/reports/report.html"):
            assert client.get(path).status_code == 401
            assert client.get(path, auth=("somebody", "else")).status_code == 401
            assert client.get(path, auth=("somebody", "s3cret")).status_code == 200
        assert client.get("/catalog").status_code == 401
        answer = client.get("/catalog", auth=("somebody", "s3cret"))
        assert (answer.status_code, "no catalog" in answer.text) == (404, True)
        assert client.get("/api/block_types/slug/secret").status_code == 401
        for origin, status in (
            (guarded.address, 200),
            ("https://page.example", 403),
            ("null", 403),
        ):
            assert client.get("/api/health", headers={"Origin": origin}).status_code == status
        assert client.get("/reports/report.html").headers["www-authenticate"].startswith("Basic")
        for host, status in (
            (guarded.host, 200),
            ("localhost:1", 200),
            ("foley.example", 200),  # as the proxy before it is called: PREFECT_UI_URL
            ("evil.example", 400),
            ("foley.example.evil.example", 400),
        ):  # a name that its owner has resolve to this machine makes its page one of ours
            headers = {"Host": host, "Origin": f"http://{host}"}
            assert client.get("/api/health", headers=headers).status_code == status, host
        policy = client.get("/v2/").headers["content-security-policy"]
        assert "connect-src 'self' data: blob:;" in policy
    events = f"{guarded.address.replace('http', 'ws')}/api/events/in"
    with connect(
        events, origin=Origin(guarded.address), subprotocols=[Subprotocol("prefect")]
    ) as socket:
        assert socket.subprotocol == "prefect"
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            events, origin=Origin("https://page.example"), subprotocols=[Subprotocol("prefect")]
        )
    assert (
        guarded.environment()["PREFECT_API_AUTH_STRING"] == PASSWORD
    )  # what workers and runs send


@pytest.mark.slow
def test_first_runs_at_once_share_a_database_and_killed_ones_leave_no_server(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", FIRST_RUN, str(tmp_path)]
    variables = environment(PREFECT_HOME=str(tmp_path / "prefect"))
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for run in runs:
            assert run.stdout
            assert run.stdout.readline() == "answers\n", (
                tmp_path / "prefect" / "server.log"
            ).read_text()
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    until(lambda: not servers(tmp_path / "prefect"), 300, "every server is gone")


def servers(home: Path) -> list[psutil.Process]:
    """Processes with that PREFECT_HOME."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("PREFECT_HOME") == str(home)
    ]
