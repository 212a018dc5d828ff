"""How much memory there is here for stages to run in."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")
_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of the two versions of cgroups


def memory_here(groups: Path = _GROUPS, tree: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may use: the machine's, or less in a container or a Slurm job."""
    return min([psutil.virtual_memory().total, *_limits(groups, tree)])


def _limits(groups: Path, tree: Path) -> Iterator[int]:
    """What each control group above this process allows; `max`, for no limit, is no number."""
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, name = line.split(":", 2)
        root = tree / "memory" if "memory" in controllers.split(",") else tree
        if controllers and root == tree:
            continue
        folder = root / name.lstrip("/")
        for group in (folder, *folder.parents):
            for limit in _LIMITS:
                with suppress(OSError, ValueError):
                    yield int((group / limit).read_text())
            if group == root:
                break
