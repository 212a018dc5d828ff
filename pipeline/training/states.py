"""What an unfinished training goes on from: its newest state, and the one before, in its folder."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from warehouse.files import make_folder, write_file

STATE, BEFORE = "state.pt", "state-before.pt"
_UNREADABLE = (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, UnpicklingError)


def write_state(tmp: Path, folder: Path, state: Mapping[str, object]) -> None:
    """Keep a state, and the one before it, in case a disk damages the newer."""
    newest = make_folder(folder) / STATE
    with suppress(FileNotFoundError):
        newest.replace(folder / BEFORE)
    write_file(tmp, lambda handle: torch.save(dict(state), handle), newest)


def read_states(folder: Path) -> Iterator[dict[str, Any]]:
    """The states in a folder, the newest first; a damaged one is said and passed over."""
    for file in (folder / STATE, folder / BEFORE):
        if not file.is_file():
            continue
        try:
            _check_sums(file)
            yield torch.load(file, map_location="cpu", weights_only=True)
        except (BadZipFile, *_UNREADABLE) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            logging.getLogger("foley.training").warning("%s is damaged (%s)", file, reason)


def _check_sums(file: Path) -> None:
    """Raises BadZipFile where a byte is not as it was written: torch itself checks no sums."""
    with ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(damaged)


def states_in(folder: Path) -> list[Path]:
    """The files of states, readable or not."""
    return [file for name in (STATE, BEFORE) if (file := folder / name).is_file()]


def remove_states(folder: Path) -> None:
    """Remove what is no longer needed."""
    for file in states_in(folder):
        file.unlink(missing_ok=True)
