"""The lists of our own mistakes follow the code: what they would change is there, once."""

from __future__ import annotations

import ast

import pytest

from tests.mutations.__main__ import ROOMS, ROOT, own_mistakes


@pytest.mark.parametrize("room", ROOMS)
def test_every_mistake_can_be_made(room: str) -> None:
    for mistake in own_mistakes(room):
        ast.parse(mistake.code)  # else whatever imports it would notice


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_files_and_tests(room: str) -> None:
    equivalent = (entry["file"] for entry in ROOMS[room].get("equivalent", ()))
    for name in (*ROOMS[room]["files"], *ROOMS[room]["tests"], *equivalent):
        assert (ROOT / name).exists(), name
