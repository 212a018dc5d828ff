"""Where a generated sound comes from: a JSON file beside it, and a record in a home folder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.media import whole
from warehouse.errors import FoleyError
from warehouse.files import Json, file_sha256, read_json
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from model.bridge_file import BridgeFacts
    from model.presets.preset import Preset

#: What a sidecar says of its own file, beside what the sound in it was made of.
OF_THE_FILE = ("sound", "path", "created_at")


def code_version() -> str:
    """The package's version, with the commit of the source tree where it runs from one."""
    package, commit = version("foley-control"), code_revision()
    return f"{package}+{commit}" if commit else package


def code_revision(folder: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of the source tree that this runs from (`-dirty` where files differ), if any.

    An image has no tree, and says its commit in FOLEY_COMMIT.
    """
    if not (folder / ".git").exists():
        return os.environ.get("FOLEY_COMMIT") or None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def model_facts(preset: Preset, bridge: Path, facts: BridgeFacts) -> Json:
    """What makes a sound: revisions of the models, the bridge's hash and checkpoint, settings.

    `preset` is as the bridge needs it (`facts.apply`). The checkpoint is None for a bridge that
    lies in no home folder.
    """
    beside, digest = bridge.parent / "checkpoint.json", file_sha256(bridge)
    record = read_json(beside) if beside.is_file() else {}
    return {
        "preset": preset.name,
        "backbone": facts.backbone,
        "encoder": facts.encoder,
        "bridge": digest,
        "checkpoint": record.get("id") if record.get("sha256") == digest else None,
        "settings": preset.sample.model_dump(exclude={"fast_steps"})
        | {"window": preset.window.model_dump()},
    }


def sidecar_of(out: Path) -> Path:
    """The JSON file that says where a sound comes from: `clip.mp4.json`."""
    return out.with_name(f"{out.name}.json")


def told_of(out: Path) -> Json:
    """What a sidecar says of a sound; nothing where there is none of ours."""
    try:
        told = read_json(sidecar_of(out))
    except (FoleyError, UnicodeDecodeError):
        return {}
    return told if {"sound", "seed", "video"} <= told.keys() else {}


def gain_of(sound: Path) -> float:
    """By how many dB `loudness` lifted a sound that the models made, as its sidecar tells; or 0."""
    gain = told_of(sound).get("gain", 0.0)
    return float(gain) if isinstance(gain, int | float) else 0.0


def is_made(out: Path, asked: Mapping[str, object]) -> bool:
    """Whether `out` is a whole sound of ours that was made of just what is asked for."""
    told = told_of(out)
    same = all(_lasting(told.get(name)) == _lasting(value) for name, value in asked.items())
    return same and out.is_file() and told.get("sound") == file_sha256(out)


def _lasting(value: object) -> object:
    """A fact without a path, which may be given otherwise; as JSON has it."""
    plain = json.loads(json.dumps(value))
    return plain.get("sha256", plain) if isinstance(plain, dict) else plain


@contextmanager
def kept_provenance(out: Path, provenance: Json, home: Warehouse | None) -> Generator[None]:
    """Have a sound's provenance beside the file that the enclosed work writes, and in a home.

    The sidecar is there before the file, without its hash: so a file of ours is known for one
    whenever the work is killed, and as whole only with the hash. Raises FoleyError if either cannot
    be written.
    """
    path = sidecar_of(out)
    new = not path.exists()
    if new:
        _write_sidecar(path, {"sound": None, **provenance})
    try:
        yield
    except BaseException:
        if new:
            path.unlink(missing_ok=True)
        raise
    sound = file_sha256(out)
    record = {"sound": sound, "path": str(out.absolute()), **provenance}
    record["created_at"] = datetime.now(UTC).isoformat()
    if home is not None:
        video = provenance["video"] and provenance["video"]["sha256"]
        home.write_record("sounds", sound, record | {"video_sha256": video})
    _write_sidecar(path, record)  # the last: what is told of as whole is not made again


def _write_sidecar(path: Path, record: Mapping[str, object]) -> None:
    with whole(path) as aside:
        aside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
