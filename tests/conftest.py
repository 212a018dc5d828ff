"""What all tests share: the machine, a Prefect API, a small corpus.

Prefect reads its settings when it is first imported, so they are settled here, before any test
module imports a flow.
"""

from __future__ import annotations

import os

# whatever the machine says, compiled modules are kept: tests start a hundred processes, and each
# would compile thousands of modules again, which takes as long as all else that it does
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# before torch is imported: two pools of threads would fight over cores, and so would a training's
# threads that wait
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import atexit
import select
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from flows.server.embedded import EmbeddedServer
from flows.server.server import answers

# How long an example takes says nothing of the code here: the machine is shared.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


class RoomsAndFiles(LoadScopeScheduling):
    """A file stays in one process, for its fixtures.

    So does the room of operations, for its running factory.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        return "operations" if "/operations/" in file else file


#: After which a test that starts servers or trains is taken to hang; for others see `timeout` in
#: pyproject.toml.
SLOW_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests a limit of their own, and begin with what takes longest.

    A test that needs Prefect's server is slow. The room of operations waits more than it computes,
    and would keep one process busy when all others are done; the demo is the longest file.
    """
    first = ("/operations/", "/test_demo.py")
    items.sort(
        key=lambda item: min((i for i, f in enumerate(first) if f in item.nodeid), default=9)
    )
    for item in items:
        if "api" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Called by pytest-xdist for `-n auto`: a process a core, and one while operations wait."""
    waiting = 0 if "not slow" in config.option.markexpr else 1
    return len(os.sched_getaffinity(0)) + waiting


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RoomsAndFiles:
    """Called by pytest-xdist, which would divide by file alone."""
    return RoomsAndFiles(config, log)


def _serve_when_asked() -> None:
    """Start Prefect's API when the first connection waits on its port, as systemd would.

    The thread stays: the server ends with the thread that started it.
    """
    folder = Path(tempfile.mkdtemp(prefix="foley-prefect-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = EmbeddedServer(folder)

    def wait() -> None:
        select.select([server._listener], [], [])
        server.start()
        server._process.wait()

    threading.Thread(target=wait, daemon=True).start()
    os.environ |= {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": server.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }


if "PYTEST_XDIST_WORKER" not in os.environ:  # its processes share that of the one above them
    _serve_when_asked()


@pytest.fixture(scope="session")
def api() -> str:
    """Address of the running API, one for all; flows of this process report there."""
    url = os.environ["PREFECT_API_URL"]
    assert answers("127.0.0.1", int(url.split(":")[2].removesuffix("/api")), 300)
    return url


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips of 2 s and one bad one of every kind; not to be changed."""
    from pipeline.procedural import Corpus, write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, Corpus(10, seed=7, seconds=2.0))
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good clips of a second and a silent one, for what need not be many; as `corpus`."""
    from pipeline.procedural import Corpus, write_corpus

    folder = tmp_path_factory.mktemp("few") / "few"
    write_corpus(folder, Corpus(3, seed=7, seconds=1.0, bad=("silent",)))
    return folder
