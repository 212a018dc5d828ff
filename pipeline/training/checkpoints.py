"""Checkpoints: trained bridges with their records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warehouse import Warehouse
from warehouse.files import file_sha256


@dataclass(frozen=True)
class Checkpoint:
    """A trained bridge in the warehouse; `trained` is False where it was there already."""

    id: str
    path: Path
    record: dict[str, Any]
    trained: bool


def find_checkpoint(wh: Warehouse, id: str) -> Checkpoint | None:
    """A checkpoint whose file is what was written, or None."""
    path = wh.folder("checkpoints") / id / "bridge.safetensors"
    known = [record for record in wh.records("checkpoints") if record["id"] == id]
    if not known or not path.is_file():
        return None
    same = file_sha256(path) == known[0]["sha256"]
    return Checkpoint(id, path, known[0], trained=False) if same else None
