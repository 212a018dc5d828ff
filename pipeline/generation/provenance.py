"""Where a generated sound comes from: a JSON file beside it, and a record in a home folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.media import printable
from warehouse.errors import FoleyError
from warehouse.files import file_sha256
from warehouse.store import Warehouse


def code_version() -> str:
    """The package's version, with the commit of the source tree where it runs from one."""
    package, commit = version("foley-control"), code_revision()
    return f"{package}+{commit}" if commit else package


def code_revision() -> str | None:
    """The commit of the source tree that this runs from (`-dirty` where files differ), if any."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def bridge_facts(path: Path) -> dict[str, str | None]:
    """Hash of a bridge's file, and the checkpoint that it is, where it lies in a home folder."""
    record = path.parent / "checkpoint.json"
    checkpoint = json.loads(record.read_text()).get("id") if record.is_file() else None
    return {"bridge": file_sha256(path), "checkpoint": checkpoint}


def sidecar_of(out: Path) -> Path:
    """The JSON file that says where a sound comes from: `clip.mp4.json`."""
    return out.with_name(f"{out.name}.json")


def keep_provenance(out: Path, provenance: Mapping[str, Any], home: Warehouse | None) -> None:
    """Write a sound's provenance beside its file and, where there is a home, as a record there.

    Raises FoleyError if either cannot be written.
    """
    sound = file_sha256(out)
    record = {"sound": sound, "path": str(out.absolute()), **provenance}
    record["created_at"] = datetime.now(UTC).isoformat()
    path = sidecar_of(out)
    try:
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise FoleyError(f"{printable(path)}: cannot be written: {error.strerror}") from None
    if home is not None:
        home.write_record("sounds", sound, record | {"video_sha256": provenance["video"]["sha256"]})
