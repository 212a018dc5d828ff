"""What runs the batches of a stage: threads or processes of this machine, Dask, or Ray."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Self

from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.parameters import BatchParameters
from flows.running.signals import handler_kept
from warehouse import FoleyError

#: Errors of the machinery, not of the work: a worker that was killed, a connection that broke.
_TRANSIENT = (
    "BrokenProcessPool",
    "KilledWorker",
    "WorkerCrashedError",
    "NodeDiedError",
    "CommClosedError",
    "ConnectionError",
    "ConnectionResetError",
    "BrokenPipeError",
    "CancelledError",
    "FutureCancelledError",
)


#: Run by a Dask worker as it starts. To cancel a run is to send SIGTERM to all its processes; Dask
#: would start a worker that ends of it anew, and that one would outlive the run. A worker ends by
#: itself when the run's process is gone.
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def task_runner(parameters: BatchParameters) -> TaskRunner[Any]:
    """A runner that is not started yet. Raises FoleyError where its packages are not installed."""
    makers: dict[str, Callable[[BatchParameters], TaskRunner[Any]]] = {
        "thread": lambda p: ThreadPoolTaskRunner(max_workers=p.batches_at_once),
        "process": lambda p: ProcessPoolTaskRunner(
            max_workers=p.batches_at_once, initializer=end_with_parent
        ),
        "dask": _dask,
        "ray": _ray,
    }
    return makers[parameters.runner](parameters)


class Runners:
    """The runner of a run's stages: started for the first batch, and anew after workers died."""

    def __init__(self, parameters: BatchParameters) -> None:
        self.parameters = parameters
        self._runner: TaskRunner[Any] | None = None

    @property
    def here(self) -> bool:
        """Whether batches run in this process."""
        return self.parameters.runner == "thread"

    @property
    def at_once(self) -> int:
        """Batches to have submitted: on a cluster one more than run, so that no worker waits."""
        local = self.parameters.runner in ("thread", "process")
        return self.parameters.batches_at_once + (0 if local else 1)

    def submit(self, task: Any, parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """Submit a task with its arguments by name."""
        if self._runner is None:
            with handler_kept():
                self._runner = task_runner(self.parameters).__enter__()
        return self._runner.submit(task, parameters)

    def renew(self) -> None:
        """End the runner; the next batch starts another."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the runner; where the run was told to end, its batches are not waited for."""
        if kind is None or issubclass(kind, Exception):
            self._end()

    def _end(self) -> None:
        if self._runner is not None:
            self._runner.__exit__(None, None, None)
            self._runner = None


def _dask(parameters: BatchParameters) -> TaskRunner[Any]:
    _check("prefect_dask", "dask")
    from prefect_dask.task_runners import DaskTaskRunner

    if parameters.cluster:
        return DaskTaskRunner(address=parameters.cluster)
    own = {
        "n_workers": parameters.batches_at_once,
        "threads_per_worker": 1,  # a worker is a process with its own models
        "dashboard_address": None,
        "host": "127.0.0.1",  # Dask's messages are pickles: nobody else may send one
        "preload": [_DEAF],
    }
    return DaskTaskRunner(cluster_kwargs=own)


def _ray(parameters: BatchParameters) -> TaskRunner[Any]:
    _check("prefect_ray", "ray")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers run in this environment
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray.task_runners import RayTaskRunner

    if parameters.cluster:
        return RayTaskRunner(address=parameters.cluster)
    own = {
        "num_cpus": parameters.batches_at_once,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",  # Ray's messages are pickles: nobody else may send one
        "log_to_driver": False,
        "configure_logging": False,
    }
    return RayTaskRunner(init_kwargs=own)


def _check(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise FoleyError(f"runner {extra} is not installed: uv sync --extra {extra}")


def end_with_parent() -> None:
    """Have Linux end this process when the flow's is killed, so that no batch goes on by itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def is_transient(error: BaseException) -> bool:
    """Whether the same batch is likely to go through when it is tried again."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(kinds & set(_TRANSIENT)) or any(
        f"{name}:" in text or f"{name}(" in text for name in _TRANSIENT
    )
