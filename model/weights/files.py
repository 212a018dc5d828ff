"""Files of weights as bytes: which belong to a model, and their hashes. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path


def visible_files(folder: Path) -> list[Path]:
    """Files of a folder but for hidden ones, which hold what a download keeps for itself."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def file_sha256(path: Path) -> str:
    """Hash of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
