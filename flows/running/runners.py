"""What runs the batches of a stage: threads or processes of this machine, Dask, or Ray."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Self, cast

from prefect import get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.parameters import BatchParameters
from flows.running.devices import devices
from flows.running.signals import end_with_parent, handler_kept
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

#: What a worker of a cluster says that it has: Ray's own name, and `dask worker --resources GPU=1`.
GPU = "GPU"
#: Batches that share a GPU: one computes while media of the other are read.
BATCHES_A_DEVICE = 2

#: Run by a Dask worker as it starts. To cancel a run is to send SIGTERM to all its processes; Dask
#: would start a worker that ends of it anew, and that one would outlive the run. A worker ends by
#: itself when the run's process is gone.
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Runners:
    """The runner of a run's stages: started for the first batch, and anew after workers died.

    Of processes there are two: models stay in those that loaded them, and share what GPUs hold.
    """

    def __init__(self, parameters: BatchParameters) -> None:
        self.parameters = parameters
        self._runners: dict[int, TaskRunner[Any]] = {}
        self._told = False

    @property
    def here(self) -> bool:
        """Whether batches run in this process."""
        return self.parameters.runner == "thread"

    def at_once(self, has_model: bool) -> int:
        """Batches of a stage to have submitted: on a cluster one more, so that no worker waits."""
        local = self.parameters.runner in ("thread", "process")
        return self._workers(has_model) + (0 if local else 1)

    def submit(self, task: Any, parameters: dict[str, Any], has_model: bool) -> PrefectFuture[Any]:
        """Submit a task with its arguments by name."""
        workers = self._workers(has_model and self.parameters.runner == "process")
        if workers not in self._runners:
            with handler_kept():
                self._runners[workers] = task_runner(self.parameters, workers).__enter__()
        runner = self._runners[workers]
        with self._on_gpu(runner) if has_model else nullcontext():
            return runner.submit(task, parameters)

    def _on_gpu(self, runner: TaskRunner[Any]) -> AbstractContextManager[object]:
        """Have a cluster give a task a worker with a GPU, where any of its workers has one."""
        if self.parameters.runner == "ray":
            import ray
            from prefect_ray.context import remote_options

            if ray.cluster_resources().get(
                GPU
            ):  # its default for GPUs: a process ends after a task
                return remote_options(num_gpus=1 / BATCHES_A_DEVICE, max_calls=0)
        elif self.parameters.runner == "dask":
            from dask.base import annotate

            workers = cast("Any", runner).client.scheduler_info(n_workers=-1)["workers"].values()
            if any(worker["resources"].get(GPU) for worker in workers):
                return annotate(resources={GPU: 1})
        if self.parameters.cluster and not self._told:
            self._told = True
            get_run_logger().warning("no worker of the cluster says that it has a GPU")
        return nullcontext()

    def _workers(self, has_model: bool) -> int:
        """How many there are: few where models share a GPU, whose memory holds them all."""
        workers = self.parameters.batches_at_once
        if has_model and not self.parameters.cluster and devices():
            return min(workers, BATCHES_A_DEVICE * len(devices()))
        return workers

    def renew(self) -> None:
        """End the runners; the next batch starts another."""
        while self._runners:
            self._runners.popitem()[1].__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the runners; where the run was told to end, its batches are not waited for."""
        if kind is None or issubclass(kind, Exception):
            self.renew()


def task_runner(parameters: BatchParameters, workers: int) -> TaskRunner[Any]:
    """A runner that is not started yet. Raises FoleyError where its packages are not installed."""
    makers: dict[str, Callable[[], TaskRunner[Any]]] = {
        "thread": lambda: ThreadPoolTaskRunner(max_workers=workers),
        "process": lambda: ProcessPoolTaskRunner(workers, initializer=end_with_parent),
        "dask": lambda: _dask(parameters),
        "ray": lambda: _ray(parameters),
    }
    return makers[parameters.runner]()


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
        "num_gpus": len(devices()),
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",  # Ray's messages are pickles: nobody else may send one
        "log_to_driver": False,
        "configure_logging": False,
    }
    return RayTaskRunner(init_kwargs=own)


def _check(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise FoleyError(f"runner {extra} is not installed: uv sync --extra {extra}")


def is_transient(error: BaseException) -> bool:
    """Whether the same batch is likely to go through when it is tried again."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(kinds & set(_TRANSIENT)) or any(
        f"{name}:" in text or f"{name}(" in text for name in _TRANSIENT
    )
