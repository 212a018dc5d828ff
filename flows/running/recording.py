"""What every flow run does beside its work: a record, a clear error, a quick end when told to."""

import logging
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import wraps
from itertools import pairwise
from typing import ParamSpec, TypeVar, cast

from prefect import Flow, flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Pause, TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.parameters import Parameters
from flows.running.checks import check
from flows.running.devices import claim_devices
from flows.running.names import named
from flows.running.signals import ends_in_time, outlive_the_worker
from warehouse import Warehouse
from warehouse.errors import FoleyError, was_interrupted
from warehouse.files import file_lock
from warehouse.runs import mark_killed_runs, run_lock

P = ParamSpec("P")
R = TypeVar("R")
_LAST_WORD = 1.5  # seconds that a run that is told to end may take to publish the catalog


def named_flow(about: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's `flow`, whose runs are named by a template; its own name is the function's.

    A person's mistake ends a run with one line, not a stack trace, as its state's message. A run
    that was cancelled, and that crashed on its way out, is not done again.
    """

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return flow(name=function.__name__, flow_run_name=named(about))(_one_line_errors(function))

    return decorate


def _one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        outlive_the_worker()
        if _was_cancelled():
            return cast("R", Cancelled(message="cancelled before; it crashed on its way out"))
        try:
            return function(*args, **kwargs)
        except FoleyError as error:
            message = str(error)
            get_run_logger().error(message)
            logging.getLogger("prefect.flow_runs").addFilter(_no_trace)
            # a direct caller gets the exception from the state
            return cast("R", Failed(message=message, data=error))

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
def recorded(
    wh: Warehouse, flow: str, parameters: Parameters, alone: str | None = None
) -> Generator[dict[str, object]]:
    """Keep a `runs` record of the enclosed work, and publish the catalog when it ends.

    The work has the devices that its parameters ask for to itself, once it may begin: one kind of
    work, `alone`, waits for another run of it first.

    Yields the record, for the work to add to; one with an `error` is of a run that failed. The
    state is running, then completed, failed, paused or cancelled; that of a run that was killed
    becomes `killed` when anybody looks next.
    """
    mark_killed_runs(wh)
    started = datetime.now(UTC)
    id = f"{flow}-{started:%Y%m%dT%H%M%S}-{str(flow_run.id or 'local')[:8]}"
    record: dict[str, object] = {
        "flow": flow,
        "flow_run": flow_run.name,
        "flow_run_id": flow_run.id,
        "parameters": parameters.model_dump(mode="json"),
        "state": "running",
        "started_at": started.isoformat(),
    }
    lock = wh.lock_path(run_lock(id))
    with ends_in_time(), file_lock(lock):
        wh.write_record("runs", id, record)
        try:
            check(parameters)
            with exclusive(wh, alone) if alone else nullcontext(), _devices(parameters):
                yield record
            record["state"] = "failed" if record.get("error") else "completed"
        except BaseException as error:
            record["state"] = _end(error)
            record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise
        finally:
            finished = datetime.now(UTC)
            record["flow_run"] = flow_run.name  # which may say by now what came of it
            record["finished_at"] = finished.isoformat()
            record["seconds"] = round((finished - started).total_seconds(), 3)
            wh.write_record("runs", id, record)
            lock.unlink(missing_ok=True)
            told_to_end = isinstance(sys.exception(), TerminationSignal | KeyboardInterrupt)
            _publish(wh, _LAST_WORD if told_to_end else None)


@contextmanager
def _devices(parameters: Parameters) -> Generator[None]:
    """Hold the devices that the parameters ask for, and say so where there are none."""
    logger, device = get_run_logger(), parameters.device_name
    with claim_devices(parameters.devices, logger.info, device) as claimed:
        if parameters.devices and not claimed and device == "auto":
            logger.warning(
                "no GPU here: models run on the processor, which takes many times as long; give "
                "the run to a machine that has one, or device cpu where it is meant so"
            )
        yield


def _end(error: BaseException) -> str:
    if isinstance(error, Exception) and not was_interrupted(error):
        return "failed"
    return "paused" if isinstance(error, Pause) else "cancelled"


def _publish(wh: Warehouse, seconds: float | None) -> None:
    """Publish the catalog. A run that is told to end waits only so long; the next one publishes."""
    if seconds is None:
        wh.publish_if_possible()
        return
    publisher = threading.Thread(target=wh.publish_if_possible, daemon=True)
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
