"""How the tests share a machine.

Processes side by side, one thread of torch each, and what belongs together in one.
"""

from __future__ import annotations

import os

# before torch is imported: two pools of threads would fight over cores, and so would a training's
# threads that wait
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

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


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RoomsAndFiles:
    """Called by pytest-xdist, which would divide by file alone."""
    return RoomsAndFiles(config, log)
