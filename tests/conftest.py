"""What all tests share: the machine, a Prefect API, a small corpus.

Prefect reads its settings when it is first imported, so they are settled here, before any test
module imports a flow.
"""

from __future__ import annotations

import os

# before torch is imported: two pools of threads would fight over cores, and so would a training's
# threads that wait
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from flows.server.embedded import EmbeddedServer

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


SLOW_SECONDS = (
    900  # a hang in a test that starts servers or trains; others: `timeout` in pyproject.toml
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests a limit of their own."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RoomsAndFiles:
    """Called by pytest-xdist, which would divide by file alone."""
    return RoomsAndFiles(config, log)


_FOLDER = Path(tempfile.mkdtemp(prefix="foley-prefect-"))
_SERVER = EmbeddedServer(_FOLDER)
os.environ |= {
    "PREFECT_HOME": str(_FOLDER),
    "PREFECT_API_URL": _SERVER.url,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


@pytest.fixture(scope="session")
def api() -> Iterator[str]:
    """Address of the running API, one for the session; flows of this process report there."""
    _SERVER.start()
    _SERVER.wait()
    yield _SERVER.url
    shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips of 2 s and one bad one of every kind; not to be changed."""
    from pipeline.procedural import Corpus, write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, Corpus(10, seed=7, seconds=2.0))
    return folder
