"""Notes of what was planned and selected last, between a home and an address.

They alone change at an address, where nothing can be locked. So a home keeps what it and the
address last had in common, in HOME/exchanged. A note that one side alone has changed since is
copied to the other; one that both have changed stays as it is on both, and is named. After a pull
this home has seen the other's note, and its next push puts its own there.

Of two pushes that read a note before either writes it the later one's stays. The first is told when
it reads again what it wrote, or else by its next push.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from warehouse.errors import FoleyError
from warehouse.exchange.transfer import DamagedError, Exchanged, each, here, take, there
from warehouse.files import file_lock, identity_hash, make_folder, read_json, write_json

if TYPE_CHECKING:
    from warehouse.exchange.object_store import Store
    from warehouse.home import Home

NOTES = ("commits/*/*/stage.json", "commits/*/CURRENT", "datasets/*.json", "sources/*.json")
_OF_EVERY_SCAN = ("scanned_at", "error")


def is_note(name: str) -> bool:
    """Whether a path is that of such a note."""
    path = PurePosixPath(name)
    return any(path.match(note) and note.count("/") == name.count("/") for note in NOTES)


class _Common:
    """Hashes of the notes that a home and an address last had in common."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home = home
        address = re.sub(r"//[^/@]*@", "//", store.address)  # without a password
        self._path = home.home / "exchanged" / f"{identity_hash(address)}.json"
        self._hashes: dict[str, str] = {}
        with suppress(FoleyError):  # without it, what differs is named
            self._hashes = read_json(self._path)

    def takes(
        self, name: str, old: bytes | None, new: bytes
    ) -> Literal["same", "yes", "no", "differs"]:
        """Whether a new note may take the place of an old one."""
        if old is not None and _hash(name, old) == _hash(name, new):
            return "same"
        if old is None or _hash(name, old) == self._hashes.get(name):
            return "yes"
        return "no" if _hash(name, new) == self._hashes.get(name) else "differs"

    def note(self, name: str, content: bytes) -> None:
        """Note that both sides know this one."""
        self._hashes[name] = _hash(name, content)

    def write(self) -> None:
        make_folder(self._path.parent)
        write_json(self._home.tmp, self._path, self._hashes)


def _hash(name: str, content: bytes) -> str:
    if name.startswith("sources/"):  # two machines that scan one folder have not changed it
        record = json.loads(content)
        return identity_hash({k: v for k, v in record.items() if k not in _OF_EVERY_SCAN})
    return hashlib.sha256(content).hexdigest()


def push_notes(home: Home, store: Store, names: Sequence[str], done: Exchanged) -> None:
    """Put notes at an address, but for those that another home changed there."""
    with file_lock(home.lock_path("exchange")):
        common = _Common(home, store)

        def copy(name: str) -> int | None:
            mine, theirs = here(home, name), None
            if mine is None:
                return None if (home.home / name).exists() else 0
            with suppress(FileNotFoundError, DamagedError):  # half a note is mended
                theirs = there(store, name)
            takes = common.takes(name, theirs, mine)
            if takes == "yes":
                store.put(io.BytesIO(mine), name)
                if there(store, name) != mine:  # another home was as fast
                    takes = "differs"
            if takes == "differs":
                done.differing.append(name)
            elif takes != "no":
                common.note(name, mine)
            return len(mine) if takes == "yes" else 0

        each(names, copy, done)
        common.write()


def pull_notes(home: Home, store: Store, names: Sequence[str], done: Exchanged) -> None:
    """Take notes from an address, but for those that this home changed."""
    with file_lock(home.lock_path("exchange")):
        common = _Common(home, store)

        def copy(name: str) -> int:
            theirs = there(store, name)
            takes = common.takes(name, here(home, name), theirs)
            if takes == "yes":
                take(home, name, theirs)
            if takes == "differs":
                done.differing.append(name)
            if takes != "no":
                common.note(name, theirs)
            return len(theirs) if takes == "yes" else 0

        each(names, copy, done)
        common.write()
