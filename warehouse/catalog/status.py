"""Where the work stands, from the commits themselves: counts, throughput, time to finish, disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse.commits import CLIPS_DESCRIPTOR, CommitListing, Descriptor
from warehouse.files import disk_bytes
from warehouse.rows.live import query_live
from warehouse.rows.worklist import work_list
from warehouse.schema import MAX_ATTEMPTS

if TYPE_CHECKING:
    from warehouse.home import Home

_RECENT_SECONDS = 600
_FOLDERS = ("clips", "commits", "datasets", "features", "checkpoints", "reports", "tmp")


@dataclass(frozen=True)
class StageStatus:
    """Clips of a stage under its current fingerprint.

    `reached` clips passed every upstream; each of them is passed, rejected, failed or waiting (no
    row yet, or released from quarantine). `quarantined` are the failed ones that are not tried
    again. `clips_per_second` is over the commits of the last ten minutes, None when there are fewer
    than two of them.
    """

    stage: str
    fingerprint: str
    reached: int
    passed: int
    rejected: int
    failed: int
    quarantined: int
    waiting: int
    clips_per_second: float | None
    eta_seconds: float | None


@dataclass(frozen=True)
class Status:
    """Readable and unreadable clips, every stage in order, and bytes on disk by folder."""

    clips: int
    unreadable: int
    stages: list[StageStatus]
    disk_bytes: dict[str, int]


def status(home: Home, max_attempts: int = MAX_ATTEMPTS) -> Status:
    """Numbers for `foley status`, read from the commits, so that they hold while flows write."""
    clips = {name: row["clips"] for name, row in _counts(home, CLIPS_DESCRIPTOR, 1).items()}
    passed = clips.pop("passed", 0)
    stages = [_stage(home, descriptor, max_attempts) for descriptor in home.stages().values()]
    sizes = {name: disk_bytes(home.home / name) for name in _FOLDERS}
    return Status(passed, sum(clips.values()), stages, sizes)


def _stage(home: Home, descriptor: Descriptor, max_attempts: int) -> StageStatus:
    stage, fingerprint = descriptor.stage, descriptor.fingerprint
    counts = _counts(home, descriptor, max_attempts)
    passed, rejected, failed = (
        counts.get(s, {}).get("clips", 0) for s in ("passed", "rejected", "failed")
    )
    quarantined = counts.get("failed", {}).get("exhausted", 0)
    reached = work_list(home, descriptor, None, max_attempts).ready
    waiting = max(0, reached - passed - rejected - failed)
    left = waiting + failed - quarantined
    speed = _clips_per_second(home.listing(stage, fingerprint))
    eta = left / speed if left and speed else None
    return StageStatus(
        stage=stage,
        fingerprint=fingerprint,
        reached=reached,
        passed=passed,
        rejected=rejected,
        failed=failed,
        quarantined=quarantined,
        waiting=waiting,
        clips_per_second=speed,
        eta_seconds=eta if left else 0.0,
    )


def _counts(home: Home, descriptor: Descriptor, max_attempts: int) -> dict[str, dict[str, int]]:
    """Live clips by status, and how many of them had all their attempts."""

    def sql(live: str) -> str:
        return f"""
            select status, count(*) as clips,
                   count(*) filter (attempt >= {int(max_attempts)}) as exhausted
            from {live} group by status"""

    rows = query_live(home, descriptor, ["attempt"], sql).to_pylist()
    return {row["status"]: row for row in rows}


def _clips_per_second(listing: CommitListing) -> float | None:
    """Clips a second between the commits of the last ten minutes, by the times of their files."""
    times: list[tuple[float, int]] = []
    for commit in listing.good:
        try:
            written = commit.path.stat().st_mtime
        except FileNotFoundError:
            continue
        if not commit.compacted and written > time.time() - _RECENT_SECONDS:
            times.append((written, commit.rows))
    times.sort()
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    return sum(rows for _, rows in times[1:]) / (times[-1][0] - times[0][0])
