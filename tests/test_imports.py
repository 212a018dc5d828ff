"""Every module of every room can be imported by this Python.

`.ci/run` asks it of each Python that it finds.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("foley", "flows", "pipeline", "model", "warehouse", "recipes")


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_can_be_imported(room: str) -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted((ROOT / room).rglob("*.py"))
    ]
    assert names
    for name in names:
        import_module(name.removesuffix(".__init__"))
