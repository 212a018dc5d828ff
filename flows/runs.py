"""What every flow run does beside its work: a record in the warehouse, a clear error, a quick end when told to."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import get_run_logger
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.errors import is_user_error
from flows.parameters import Parameters
from flows.records import mend, run_lock
from warehouse import Warehouse
from warehouse.files import file_lock

P = ParamSpec("P")
R = TypeVar("R")
_LEAVE_AFTER = 4.0  # seconds; a person who cancels waits 10 at most, and Prefect's worker takes up to 5 to hear of it


def clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Have a person's mistake end the run with one line as its state's message, in place of a stack trace."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not is_user_error(error):
                raise
            message = " ".join(str(error).split())
            get_run_logger().error("%s", message)
            logging.getLogger("prefect.flow_runs").addFilter(_no_trace)
            return cast("R", Failed(message=message, data=error))  # a direct caller gets the exception from it

    # Prefect makes the form from the signature, and cannot look up names in the module that the function is from.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(function, eval_str=True)
    return run


def _no_trace(line: logging.LogRecord) -> bool:
    """Leave out Prefect's stack trace of the failure that was just explained in one line."""
    return not line.getMessage().startswith("Engine execution exited with unexpected exception")


@contextmanager
def recorded(wh: Warehouse, flow: str, parameters: Parameters) -> Generator[dict[str, Any]]:
    """Keep a `runs` record of the enclosed work, from its beginning to its end, and publish the catalog.

    Yields the record, for the work to add to. The state is running, then completed, failed or cancelled; that of a run
    that was killed becomes `killed` when anybody looks next.
    """
    mend(wh)
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
    lock = wh.lock_path(run_lock(id))
    with file_lock(lock):
        wh.write_record("runs", id, record)
        try:
            yield record
            record["state"] = "completed"
        except BaseException as error:
            record["state"] = "failed" if isinstance(error, Exception) else "cancelled"
            record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            if isinstance(error, TerminationSignal):
                _leave_soon()
            raise
        finally:
            finished = datetime.now(UTC)
            record |= {"finished_at": finished.isoformat(), "seconds": round((finished - started).total_seconds(), 3)}
            wh.write_record("runs", id, record)
            lock.unlink(missing_ok=True)
            wh.publish()


def _leave_soon() -> None:
    """End this process even where a batch or a model is in the middle of something: its commit is not written then."""
    timer = threading.Timer(_LEAVE_AFTER, os._exit, [143])
    timer.daemon = True
    timer.start()


@contextmanager
def alone(wh: Warehouse, what: str) -> Generator[None]:
    """Hold the warehouse's lock for one kind of work, one after another; a killed holder's is free at once."""
    path = wh.lock_path(what)
    with file_lock(path, wait=False) as mine:
        if mine:
            yield
            return
    get_run_logger().info("another %s works on %s: waiting for it to end", what, wh.home)
    with file_lock(path):
        yield
