"""Where the work stands, from the commits themselves: counts, throughput, time to finish, disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.commits import Descriptor, Listing
from warehouse.live import clips_sql, live_sql, run_checked, work_list
from warehouse.schema import MAX_ATTEMPTS

if TYPE_CHECKING:
    from warehouse.store import Warehouse

_RECENT_MINUTES = 10


@dataclass(frozen=True)
class StageStatus:
    """Clips of a stage under its current fingerprint.

    `reached` clips passed every upstream; each of them is passed, rejected, failed or waiting (no row yet, or released
    from quarantine). `quarantined` are the failed ones that are not tried again. `clips_per_second` is over the
    commits of the ten minutes before the newest; None before there are two of them.
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


def status(wh: Warehouse, max_attempts: int = MAX_ATTEMPTS) -> Status:
    """Numbers for `foley status`, read from the commits, so that they are true while flows write."""
    good, bad = _clips(wh)
    stages = [_stage(wh, descriptor, max_attempts) for descriptor in wh.stages().values()]
    folders = ("clips", "commits", "datasets", "features", "checkpoints", "reports", "tmp")
    return Status(good, bad, stages, {name: disk_bytes(wh.home / name) for name in folders})


def _clips(wh: Warehouse) -> tuple[int, int]:
    def work(listings: dict[str, Listing]) -> tuple[int, int]:
        sql = f"select count(*) filter (status = 'passed'), count(*) filter (status <> 'passed') from {{}}"
        return _row(wh, sql.format(clips_sql(listings["clips"].files, [], None)))

    return run_checked(wh, {"clips": ("clips", "source")}, work)


def _stage(wh: Warehouse, descriptor: Descriptor, max_attempts: int) -> StageStatus:
    stage = descriptor.stage

    def work(listings: dict[str, Listing]) -> tuple[Any, ...]:
        live = live_sql(listings["clips"].files, listings[stage].files, descriptor, ["attempt", "committed_at"])
        newest = f"(select max(committed_at) from live) - interval {_RECENT_MINUTES} minute"
        return _row(
            wh,
            f"""with live as materialized (from {live}),
            recent as (select count(*) as n, min(committed_at) as a, max(committed_at) as b,
                       count(*) filter (committed_at > (select min(committed_at) from live
                                                        where committed_at >= {newest})) as m
                       from live where committed_at >= {newest})
            select count(*) filter (status = 'passed'), count(*) filter (status = 'rejected'),
                   count(*) filter (status = 'failed'),
                   count(*) filter (status = 'failed' and attempt >= {int(max_attempts)}),
                   (select case when b > a then m / (epoch(b) - epoch(a)) end from recent)
            from live""",
        )

    sources = {"clips": ("clips", "source"), stage: (stage, descriptor.fingerprint)}
    passed, rejected, failed, quarantined, speed = run_checked(wh, sources, work)
    reached = work_list(wh, descriptor, None, max_attempts).ready
    waiting = max(0, reached - passed - rejected - failed)
    left = waiting + failed - quarantined
    eta = left / speed if speed else (0.0 if not left else None)
    return StageStatus(
        stage, descriptor.fingerprint, reached, passed, rejected, failed, quarantined, waiting, speed, eta
    )


def _row(wh: Warehouse, sql: str) -> tuple[Any, ...]:
    con = wh.cursor()
    try:
        row = con.execute(sql).fetchone()
        assert row is not None
        return row
    finally:
        con.close()


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
