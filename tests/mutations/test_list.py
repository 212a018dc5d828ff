"""The list of our own mistakes follows the code: what it would change is there, once."""

from __future__ import annotations

import pytest

from tests.mutations.__main__ import LISTS, ROOT, own_mistakes


@pytest.mark.parametrize("room", sorted({entry["room"] for entry in LISTS["mistakes"]}))
def test_every_mistake_can_be_made(room: str) -> None:
    assert all(mistake.code.strip() for mistake in own_mistakes(room))


def test_every_room_has_its_files_and_tests() -> None:
    for room in LISTS["rooms"].values():
        for name in (*room["files"], *room["tests"]):
            assert (ROOT / name).exists(), name
