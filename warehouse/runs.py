"""Run records of runs that were killed.

Imports nothing heavy, so that `foley status` can mend them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from warehouse.files import file_lock

if TYPE_CHECKING:
    from warehouse.home import Home


def run_lock(id: str) -> str:
    """Name of the lock that a run holds while it lives."""
    return f"run-{id}"


def mend(wh: Home) -> list[str]:
    """Mark runs that are `running` in the records and whose process is gone as `killed`; their ids.

    A live run holds a lock, which the system frees however its process ends: no clock and no
    process id decides.
    """
    killed: list[str] = []
    for record in wh.records("runs"):
        if record.get("state") != "running":
            continue
        id = str(record["id"])
        path = wh.lock_path(run_lock(id))
        with file_lock(path, wait=False) as free:
            if not free or wh.record("runs", id).get("state") != "running":
                continue
            wh.write_record(
                "runs",
                id,
                record | {"state": "killed", "error": "its process ended without a word"},
            )
            path.unlink(missing_ok=True)
            killed.append(id)
    return killed
