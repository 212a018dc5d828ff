"""The flow that keeps the warehouse in order, as `foley maintain` does."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from flows.display.artifacts import show_rows
from flows.parameters import MaintainParameters
from flows.running.recording import exclusive, one_line_errors, recorded
from warehouse import FoleyError, Warehouse
from warehouse.maintenance import Maintenance, maintain


@flow(name="maintenance", flow_run_name="maintenance")
@one_line_errors
def maintenance(parameters: MaintainParameters) -> dict[str, Any]:
    """Merge small commits, remove what dead runs left, and fail where files are damaged."""
    warehouse = Warehouse(parameters.home)
    options = Maintenance(delete=parameters.delete, deep=parameters.deep)
    with (
        recorded(warehouse, "maintenance", parameters) as record,
        exclusive(warehouse, "maintenance"),
    ):
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
