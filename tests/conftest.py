"""How the tests share a machine: processes side by side, one thread of torch each, and what belongs together in one."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; two pools of threads would fight over cores

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing of the code here: the machine is shared.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays in one process, for its fixtures; so does the room of operations, for its running factory."""
    for item in items:
        room = item.path.parent
        group = room if room.name == "operations" else item.path
        item.add_marker(pytest.mark.xdist_group(str(group.relative_to(Path(__file__).parent))))
