"""Parts of the main flows as flows of their own.

Select again, features, sound for one video, maintenance.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from flows.display.artifacts import show_rows
from flows.parameters import MaintainParameters
from flows.running.recording import exclusive, one_line_errors, recorded
from warehouse import FoleyError, Warehouse, compact, gc, verify


@flow(name="maintenance", flow_run_name="maintenance")
@one_line_errors
def maintenance(parameters: MaintainParameters) -> dict[str, Any]:
    """Merge small commits, remove what dead runs left, and look for damaged files.

    Fails where there are any.
    """
    wh = Warehouse(parameters.home)
    logger = get_run_logger()
    with recorded(wh, "maintenance", parameters) as kept, exclusive(wh, "maintenance"):
        merged = compact(wh)
        garbage = gc(wh, dry_run=not parameters.delete)
        problems = verify(wh, deep=parameters.deep)
        size = sum(item.bytes for item in garbage)
        found = {
            "merged": len(merged),
            "garbage": len(garbage),
            "garbage_bytes": size,
            "problems": len(problems),
        }
        kept.update(found)
        logger.info("%s", found)
        show_rows(
            "leavings",
            [{"path": str(g.path), "bytes": g.bytes, "why": g.why} for g in garbage],
            "left behind",
        )
        show_rows(
            "problems",
            [{"path": str(p.path), "what": p.what} for p in problems],
            "files not as written",
        )
        if problems:
            first = problems[0]
            raise FoleyError(
                f"{len(problems)} files are not as they were written, the first: {first.path} {first.what}"
            )
    return found
