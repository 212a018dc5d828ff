"""One real Prefect API for all tests of this room: the embedded server, in its own folder, once a session.

Prefect reads its settings when it is first imported, so they are settled here, before any test
module imports a flow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server.embedded import EmbeddedServer

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
    """Address of the running API; flows of this process report there."""
    _SERVER.start()
    _SERVER.wait()
    yield _SERVER.url
    shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips of 2 s and one bad one of every kind; not to be changed."""
    from pipeline.procedural import write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(folder, 10, seed=7, seconds=2.0)
    return folder
