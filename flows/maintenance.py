"""Flows that keep the warehouse in order: maintenance, a look at its health, failed clips again."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger

from flows.curate import Curated, curate
from flows.display.artifacts import show_rows
from flows.parameters import (
    CurateParameters,
    HealthParameters,
    MaintainParameters,
    ReleaseParameters,
    RetryParameters,
    SharedOutParameters,
)
from flows.running.recording import named_flow, recorded
from pipeline.curation.health import Limits, check_health
from warehouse import FoleyError, Warehouse
from warehouse.maintenance import Maintenance, maintain
from warehouse.maintenance import release as release_clips


@named_flow("maintenance")
def maintenance(parameters: MaintainParameters) -> dict[str, Any]:
    """Merge small commits, remove what dead runs left, and fail where files are damaged."""
    warehouse = Warehouse(parameters.home)
    options = Maintenance(delete=parameters.delete, deep=parameters.deep, keep=parameters.keep)
    with recorded(warehouse, "maintenance", parameters, alone="maintenance") as record:
        done = maintain(warehouse, options)
        figures = {
            "merged": len(done.merged),
            "garbage": len(done.garbage),
            "garbage_bytes": sum(item.bytes for item in done.garbage),
            "problems": len(done.problems),
        }
        record.update(figures)
        get_run_logger().info("%s", figures)
        left = [{"path": str(g.path), "bytes": g.bytes, "why": g.why} for g in done.garbage]
        show_rows("leavings", left, "left behind")
        damaged = [{"path": str(p.path), "what": p.what} for p in done.problems]
        show_rows("problems", damaged, "files not as written")
        if done.problems:
            first = f"the first: {done.problems[0].path} {done.problems[0].what}"
            raise FoleyError(f"{len(done.problems)} files are not as they were written, {first}")
    return figures


@named_flow("health")
def health(parameters: HealthParameters) -> list[dict[str, object]]:
    """Check sources, the dataset and failures; raises FoleyError with all that is not well."""
    wh = Warehouse(parameters.home)
    limits = Limits(parameters.days, parameters.moved, parameters.failed)
    with recorded(wh, "health", parameters):
        now = datetime.now(UTC)
        found = sorted(check_health(wh, limits, now), key=lambda check: check.ok)
        checks: list[dict[str, Any]] = [asdict(check) | {"ok": check.ok} for check in found]
        record = {"checked_at": now.isoformat(), "checks": checks}
        wh.write_record("health", f"{now:%Y%m%dT%H%M%S%f}", record)
        show_rows("health", checks, "what is not well, then what is")
        if wrong := [check.message for check in found if not check.ok]:
            raise FoleyError("; ".join(wrong))
    return checks


@named_flow("release failed clips")
def release(parameters: ReleaseParameters) -> dict[str, int]:
    """Give failed clips their attempts back, for the next run to try them; how many, by stage.

    Raises FoleyError for a stage that never ran.
    """
    warehouse = Warehouse(parameters.home)
    with recorded(warehouse, "release", parameters) as record:
        stages = parameters.stages or tuple(warehouse.stages())
        found = {stage: release_clips(warehouse, stage, parameters.reason) for stage in stages}
        record["released"] = {stage: clips for stage, clips in found.items() if clips}
        get_run_logger().info("clips to be tried again: %s", record["released"] or "none")
    return record["released"]


@named_flow("retry failed clips")
def retry(parameters: RetryParameters) -> Curated:
    """Give failed clips their attempts back, and curate: they are tried, and selected if they pass.

    Raises FoleyError as `release` and `curate` do.
    """
    release(ReleaseParameters(**parameters.model_dump(include={*ReleaseParameters.model_fields})))
    return curate(
        CurateParameters(**parameters.model_dump(include={*SharedOutParameters.model_fields}))
    )
