"""Files of weights as bytes: which belong to a model, and their hashes. Needs no torch."""

import hashlib
import json
import math
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGE = 2**24  # bytes; a smaller file is hashed in a blink
#: ns within which two changes of a file may carry one time: the coarsest clock, FAT's, ticks 2 s.
_TICK = 2_000_000_000

BRIDGE_FILE = "bridge.safetensors"  # in a checkpoint's folder, and beside weights that are shipped


def visible_files(folder: Path) -> list[Path]:
    """Files of a folder but for hidden ones, which hold what a download keeps for itself."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def weights_bytes(path: Path, prefix: str = "") -> int:
    """Bytes that weights take in memory: those of a file, or of a folder's files; 0 without any.

    Of a safetensors file it is what its header lists, as float32, and with a `prefix` only tensors
    whose keys begin so. Another file takes what it has on disk.
    """
    if path.is_dir():
        return sum(weights_bytes(file, prefix) for file in path.glob("*.safetensors"))
    if not path.is_file():
        return 0
    with path.open("rb") as file, suppress(ValueError, KeyError, AttributeError):
        if path.suffix == ".safetensors":
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LARGE)))
            header.pop("__metadata__", None)
            shapes = [said["shape"] for key, said in header.items() if key.startswith(prefix)]
            return 4 * sum(map(math.prod, shapes))
    return path.stat().st_size


def file_sha256(path: Path) -> str:
    """Hash of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """Hash of a file, in hex, which is computed once for a large file that does not change.

    A file is the same while its size, place and times are: every change sets the time of the inode
    (ctime), which no program can set back. Hashes are kept in the user's cache folder, and only
    those of files that were older than any clock's tick before they were read, so that a later
    change has another time.
    """
    state = _state(path)
    if state[0] < LARGE:
        return file_sha256(path)
    name, kept = str(path.resolve()), _kept_hashes()
    if name in kept and kept[name][:-1] == state:
        return str(kept[name][-1])
    started = time.time_ns()
    digest = file_sha256(path)
    if _state(path) == state and max(state[1], state[2]) < started - _TICK:
        _keep(_kept_hashes() | {name: [*state, digest]})
    return digest


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _kept_hashes() -> dict[str, list[object]]:
    """State and hash of files by path; none where they cannot be read."""
    try:
        kept = json.loads(_cache().read_text())
        return {name: list(values) for name, values in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep(hashes: dict[str, list[Any]]) -> None:
    """Replace what is kept, in one step; where that cannot be done, files are hashed again."""
    there = {name: values for name, values in hashes.items() if Path(name).is_file()}
    with suppress(OSError):
        _cache().parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=_cache().parent)
        with os.fdopen(descriptor, "w") as file:
            json.dump(there, file)
        Path(aside).replace(_cache())


def _cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "foley" / "sha256.json"
