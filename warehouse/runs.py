"""Records of runs whose process was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warehouse.files import file_lock, is_locked

if TYPE_CHECKING:
    from warehouse.home import Home


def run_lock(id: str) -> str:
    """Name of the lock that a run holds while it lives."""
    return f"run-{id}"


def works_on_versions(home: Home) -> bool:
    """Whether a living run, or a training, may use any dataset version."""
    running = [r for r in home.records("runs") if r.get("state") == "running"]
    names = [run_lock(str(r["id"])) for r in running if r.get("flow") != "maintenance"]
    trainings = home.lock_path("train-").parent.glob("train-*.lock")
    return any(is_locked(path) for path in [*map(home.lock_path, names), *trainings])


def mark_killed_runs(home: Home) -> list[str]:
    """Mark runs that are recorded as `running` but have no process as `killed`; returns their ids.

    A live run holds a lock, which the system frees however its process ends: neither a clock nor a
    process id decides.
    """
    killed: list[str] = []
    for record in home.records("runs"):
        if record.get("state") != "running":
            continue
        id = str(record["id"])
        path = home.lock_path(run_lock(id))
        with file_lock(path, wait=False) as free:
            if free and home.record("runs", id).get("state") == "running":
                end = {"state": "killed", "error": "its process ended without a word"}
                home.write_record("runs", id, record | end)
                path.unlink(missing_ok=True)
                killed.append(id)
    return killed
