"""A server on loopback, a new one for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.download.mirror import Mirror, layout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return layout(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def mirror(files: dict[str, bytes]) -> Iterator[tuple[Mirror, str]]:
    server = Mirror(dict(files))
    yield server, server.start()
    server.stop()
