"""Every flow run as a record of the warehouse, and a catalog that shows it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from prefect.runtime import flow_run

from flows.parameters import Parameters
from warehouse import Warehouse


@contextmanager
def recorded(wh: Warehouse, flow: str, parameters: Parameters) -> Generator[dict[str, Any]]:
    """Keep a `runs` record of the enclosed work, from its beginning to its end, and publish the catalog.

    Yields the record, for the work to add to. The state is running, then completed, failed or cancelled; a run that
    was killed stays running, as does its flow run in Prefect.
    """
    started = datetime.now(UTC)
    id = f"{flow}-{started:%Y%m%dT%H%M%S}-{str(flow_run.id or 'local')[:8]}"
    record: dict[str, Any] = {
        "flow": flow,
        "flow_run": flow_run.name,
        "flow_run_id": flow_run.id,
        "parameters": parameters.model_dump(mode="json"),
        "state": "running",
        "started_at": started.isoformat(),
    }
    wh.write_record("runs", id, record)
    try:
        yield record
        record["state"] = "completed"
    except BaseException as error:
        record["state"] = "failed" if isinstance(error, Exception) else "cancelled"
        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        raise
    finally:
        finished = datetime.now(UTC)
        record |= {"finished_at": finished.isoformat(), "seconds": round((finished - started).total_seconds(), 3)}
        wh.write_record("runs", id, record)
        wh.publish()
