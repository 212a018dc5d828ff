"""Where the work stands, from the commits themselves: counts, throughput, time to finish, disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse.catalog import sql
from warehouse.commits import CLIPS_DESCRIPTOR, Descriptor
from warehouse.datasets.corpus import newest_dataset
from warehouse.files import disk_bytes
from warehouse.rows.live import Listings, literal, live_sql, present, run_checked, scan, sources

if TYPE_CHECKING:
    from warehouse.home import Home

_RECENT_SECONDS = 600
_FEW = 3  # batches whose speed says nothing
_RESULTS = ("clips", "commits", "datasets", "features", "checkpoints", "sounds", "studio")
_FOLDERS = (*_RESULTS, "reports", "damaged", "tmp")


@dataclass(frozen=True)
class StageStatus:
    """Clips of a stage under its current fingerprint, or of the newest selection (`select`).

    `reached` clips passed every upstream, and features are for clips that were kept; each of them
    is passed, rejected, failed or waiting (no row yet, or released from quarantine). `quarantined`
    are the failed ones that are not tried again. `clips_per_second` is over the seconds in which
    any batch of the last ten minutes ran, None where there were fewer than three.
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
    """Readable and unreadable clips, every stage in order, and bytes on disk by folder.

    Clips of sources that were removed are in none of them.
    """

    clips: int
    unreadable: int
    stages: list[StageStatus]
    disk_bytes: dict[str, int]


def status(home: Home) -> Status:
    """Numbers for `foley status`, read from the commits, so that they hold while flows write."""
    dataset, stages = newest_dataset(home), list(home.stages().values())
    judged = [home.descriptor(*item) for item in dataset.fingerprints.items()] if dataset else []
    every = {(d.stage, d.fingerprint): d for d in [*stages, *judged]}
    names = [
        literal(str(record.get("name")))
        for record in home.records("sources")
        if record.get("removed")
    ]
    here = f"source is null or source not in ({', '.join(names)})" if names else "true"

    def work(listings: Listings) -> tuple[dict[str, int], list[int]]:
        reads = {name for descriptor in every.values() for name in descriptor.reads}
        present(home, listings["clips"], reads)  # once for all
        with home.cursor() as con:

            def live(stage: str, fingerprint: str) -> str:
                mine = {**listings, stage: listings[f"{stage}/{fingerprint}"]}
                return live_sql(home, con, mine, every[stage, fingerprint], ["attempt"])

            clips = live_sql(home, con, listings, CLIPS_DESCRIPTOR, ["source"])
            of_status = f"select status, count(*) from {clips} where {here} group by status"
            counts = con.execute(of_status).fetchall()
            if dataset:
                con.register("members", dataset.members(kept=None).select(["clip_id", "kept"]))
            facts = sql.Facts(f"{clips} where status = 'passed' and ({here})", live, "members")
            rows, numbers_sql = sql.steps(stages, dataset, facts)
            # One after the other, and by a hash: a fraction of the memory of one query.
            for number, row in enumerate(rows):
                to = "insert into all_known" if number else "create temp table all_known as"
                con.execute(f"{to} select hash(clip_id) as clip_id, known from ({row})")
            [numbers] = con.execute(numbers_sql).fetchall()
            return dict(counts), list(numbers)

    of = {"clips": ("clips", "source")} | {f"{stage}/{fp}": (stage, fp) for stage, fp in every}
    clips, numbers = run_checked(home, of, work)
    steps: list[StageStatus] = []
    for row in sql.funnel(numbers, stages, dataset):
        del row["position"]
        known = every.get((row["stage"], row["fingerprint"]))
        speed = _clips_per_second(home, known) if known else None
        left = row["waiting"] + row["failed"] - row["quarantined"]
        eta = (left / speed if speed else None) if left else 0.0
        steps.append(StageStatus(**row, clips_per_second=speed, eta_seconds=eta))
    sizes = {name: disk_bytes(home.home / name) for name in _FOLDERS}
    passed = clips.pop("passed", 0)
    return Status(passed, sum(clips.values()), steps, sizes)


def _clips_per_second(home: Home, descriptor: Descriptor) -> float | None:
    """Clips of the last ten minutes over the seconds in which any of their batches ran."""
    since = time.time() - _RECENT_SECONDS

    def work(listings: Listings) -> list[tuple[int, float, float]]:
        good = listings[descriptor.stage].good
        files = [str(c.path) for c in good if c.path.stat().st_mtime > since]
        rows = scan(files, ["commit", "status", "seconds", "committed_at"])
        sql = f"""
            select count(*), epoch(max(committed_at)) - sum(seconds) as began,
                   epoch(max(committed_at)) as ended
            from {rows} where status <> 'released' group by "commit"
            having ended > {since} order by began"""
        with home.cursor() as con:
            return con.execute(sql).fetchall()

    batches = run_checked(home, sources(descriptor), work)
    busy = last = 0.0
    for _, began, ended in batches:
        busy, last = busy + max(0.0, ended - max(began, last)), max(ended, last)
    return sum(row[0] for row in batches) / busy if len(batches) >= _FEW and busy else None
