"""What every flow run does beside its work: a record, a clear error, a quick end when told to."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar, cast

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Pause, TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.errors import is_user_error
from flows.parameters import Parameters
from flows.running.devices import claim_devices
from flows.running.signals import ends_in_time, outlive_the_worker
from warehouse import Warehouse
from warehouse.errors import was_interrupted
from warehouse.files import file_lock
from warehouse.runs import mark_killed_runs, run_lock

P = ParamSpec("P")
R = TypeVar("R")
_LAST_WORD = 1.5  # seconds that a run that is told to end may take to publish the catalog


def one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Have a person's mistake end the run with one line, not a stack trace, as its state's message.

    A run that was cancelled, and that crashed on its way out, is not done again.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        outlive_the_worker()
        if _was_cancelled():
            return cast("R", Cancelled(message="cancelled before; it crashed on its way out"))
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not is_user_error(error):
                raise
            message = " ".join(str(error).split())
            get_run_logger().error(message)
            logging.getLogger("prefect.flow_runs").addFilter(_no_trace)
            # a direct caller gets the exception from the state
            return cast("R", Failed(message=message, data=error))

    # Prefect makes the form from the signature, and cannot look up names in the module that the
    # function is from.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(function, eval_str=True)
    return run


def _was_cancelled() -> bool:
    """Whether this run is here because it crashed (was killed, say) while it was being cancelled.

    Prefect takes such a run for crashed, and the automation of flows/server/automations.yaml starts
    it again.
    """
    if (flow_run.run_count or 0) < 2:
        return False
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(flow_run.id)  # type: ignore[arg-type]
    kinds = [state.type for state in sorted(states, key=lambda state: state.timestamp)]
    if StateType.CANCELLED in kinds:  # a person may have started it again since
        kinds = kinds[len(kinds) - kinds[::-1].index(StateType.CANCELLED) :]
    return (StateType.CANCELLING, StateType.CRASHED) in pairwise(kinds)


def _no_trace(line: logging.LogRecord) -> bool:
    """Leave out Prefect's stack trace of a failure that was just explained in one line."""
    return not line.getMessage().startswith("Engine execution exited with unexpected exception")


@contextmanager
def recorded(wh: Warehouse, flow: str, parameters: Parameters) -> Generator[dict[str, Any]]:
    """Keep a `runs` record of the enclosed work, and publish the catalog when it ends.

    The work has the devices that its parameters ask for to itself.

    Yields the record, for the work to add to. The state is running, then completed, failed, paused
    or cancelled; that of a run that was killed becomes `killed` when anybody looks next.
    """
    mark_killed_runs(wh)
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
    with ends_in_time(), claim_devices(parameters.devices, _log), file_lock(lock):
        wh.write_record("runs", id, record)
        try:
            yield record
            record["state"] = "completed"
        except BaseException as error:
            record["state"] = _end(error)
            record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise
        finally:
            finished = datetime.now(UTC)
            record["finished_at"] = finished.isoformat()
            record["seconds"] = round((finished - started).total_seconds(), 3)
            wh.write_record("runs", id, record)
            lock.unlink(missing_ok=True)
            told_to_end = isinstance(sys.exception(), TerminationSignal | KeyboardInterrupt)
            _publish(wh, _LAST_WORD if told_to_end else None)


def _end(error: BaseException) -> str:
    if isinstance(error, Exception) and not was_interrupted(error):
        return "failed"
    return "paused" if isinstance(error, Pause) else "cancelled"


def _log(text: str) -> None:
    get_run_logger().info(text)


def _publish(wh: Warehouse, seconds: float | None) -> None:
    """Publish the catalog. A run that is told to end waits only so long; the next one publishes."""
    if seconds is None:
        wh.publish()
        return
    publisher = threading.Thread(target=wh.publish, daemon=True)
    publisher.start()
    publisher.join(seconds)


@contextmanager
def exclusive(wh: Warehouse, what: str) -> Generator[None]:
    """Hold the warehouse's lock for one kind of work; that of a killed run is free at once."""
    path = wh.lock_path(what)
    with file_lock(path, wait=False) as held:
        if held:
            yield
            return
    get_run_logger().info("another %s works on %s: waiting for it to end", what, wh.home)
    with file_lock(path):
        yield
