"""Where the work stands, from the commits themselves: counts, throughput, time to finish, disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.commits import Descriptor, Listing
from warehouse.rows.live import clips_sql, live_sql, present, run_checked
from warehouse.rows.worklist import work_list
from warehouse.schema import MAX_ATTEMPTS

if TYPE_CHECKING:
    from warehouse.home import Home

_RECENT_SECONDS = 600


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
    """Clips known and unreadable, every stage in order, and bytes on disk by folder."""

    clips: int
    unreadable: int
    stages: list[StageStatus]
    disk_bytes: dict[str, int]


def status(wh: Home, max_attempts: int = MAX_ATTEMPTS) -> Status:
    """Numbers for `foley status`, read from the commits, so that they are true while flows write."""
    good, bad = _clips(wh)
    stages = [_stage(wh, descriptor, max_attempts) for descriptor in wh.stages().values()]
    folders = ("clips", "commits", "datasets", "features", "checkpoints", "reports", "tmp")
    return Status(good, bad, stages, {name: disk_bytes(wh.home / name) for name in folders})


def _clips(wh: Home) -> tuple[int, int]:
    def work(listings: dict[str, Listing]) -> tuple[int, int]:
        con = wh.cursor()
        try:
            found = con.execute(
                f"select status = 'passed' from {clips_sql(con, listings['clips'], [])}"
            ).fetchnumpy()
        finally:
            con.close()
        good = next(iter(found.values()))
        return int(good.sum()), int(len(good) - good.sum())

    return run_checked(wh, {"clips": ("clips", "source")}, work)


def _stage(wh: Home, descriptor: Descriptor, max_attempts: int) -> StageStatus:
    stage, fingerprint = descriptor.stage, descriptor.fingerprint

    def work(listings: dict[str, Listing]) -> dict[str, tuple[int, int]]:
        con = wh.cursor()
        try:
            con.register("present", present(wh, listings["clips"], descriptor.reads))
            live = live_sql(con, listings[stage], descriptor, ["attempt"])
            tired = f"count(*) filter (attempt >= {int(max_attempts)})"
            rows = con.execute(
                f"select status, count(*), {tired} from {live} group by status"
            ).fetchall()
        finally:
            con.close()
        return {status: (count, out) for status, count, out in rows}

    counts = run_checked(wh, {"clips": ("clips", "source"), stage: (stage, fingerprint)}, work)
    passed, rejected, failed = (
        counts.get(status, (0, 0))[0] for status in ("passed", "rejected", "failed")
    )
    quarantined = counts.get("failed", (0, 0))[1]
    reached = work_list(wh, descriptor, None, max_attempts).ready
    waiting = max(0, reached - passed - rejected - failed)
    left = waiting + failed - quarantined
    speed = _clips_per_second(wh.listing(stage, fingerprint))
    eta = 0.0 if not left else left / speed if speed else None
    return StageStatus(
        stage, fingerprint, reached, passed, rejected, failed, quarantined, waiting, speed, eta
    )


def _clips_per_second(listing: Listing) -> float | None:
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


def disk_bytes(folder: Path) -> int:
    """Bytes of the files under a folder; what vanishes meanwhile is not counted."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total
