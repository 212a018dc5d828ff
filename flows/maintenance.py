"""Flows that keep the warehouse in order: maintenance, and failed clips that are tried again."""

from typing import Any

from prefect import get_run_logger

from flows.curate import Curated, curate
from flows.display.artifacts import show_rows
from flows.parameters import (
    CurateParameters,
    MaintainParameters,
    ReleaseParameters,
    RetryParameters,
    SharedOutParameters,
)
from flows.running.recording import named_flow, recorded
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
