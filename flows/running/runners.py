"""What runs the batches of a stage: threads or processes of this machine, Dask, or Ray."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Self, cast

from prefect import get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.parameters import BatchParameters
from flows.running.devices import devices
from flows.running.signals import end_with_parent, handler_kept
from pipeline.stages.memory import memory_here
from pipeline.stages.stage import Stage
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
    """The runner of a run's stages, one at a time.

    It is started for the first batch, and anew after workers died, or where a stage has room for
    fewer processes or more: models stay in those that loaded them.
    """

    def __init__(self, parameters: BatchParameters) -> None:
        self.parameters = parameters
        self._runner: TaskRunner[Any] | None = None
        self._size = 0
        self._told = set[str]()

    @property
    def here(self) -> bool:
        """Whether batches run in this process."""
        return self.parameters.runner == "thread"

    def at_once(self, stage: Stage) -> int:
        """Batches of a stage to have submitted: on a cluster one more, so that no worker waits."""
        local = self.parameters.runner in ("thread", "process")
        return self._workers(stage) + (0 if local else 1)

    def submit(self, task: Any, arguments: dict[str, Any], stage: Stage) -> PrefectFuture[Any]:
        """Submit a task of a stage with its arguments by name.

        Raises FoleyError where no machine of a cluster has the memory that the stage needs.
        """
        size = self._workers(stage)
        if self._runner is None or size != self._size:
            self.renew()
            with handler_kept():
                self._runner, self._size = task_runner(self.parameters, size).__enter__(), size
        with self._placed(stage, self._runner):
            return self._runner.submit(task, arguments)

    def _placed(self, stage: Stage, runner: TaskRunner[Any]) -> AbstractContextManager[object]:
        """Have a cluster give a task a worker with the stage's memory, and with a GPU if any has.

        On this machine there are just as many workers as have it.
        """
        if self.parameters.runner == "ray":
            return self._placed_by_ray(stage)
        if self.parameters.runner == "dask" and self.parameters.cluster:
            return self._placed_by_dask(stage, cast("Any", runner).client)
        return nullcontext()

    def _placed_by_ray(self, stage: Stage) -> AbstractContextManager[object]:
        import ray
        from prefect_ray.context import remote_options

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        having = self._with_gpu(stage, nodes)
        check_room(stage, [node.get("memory", 0) for node in having])
        options = {"memory": stage.memory}
        if stage.needs == "gpu" and having[0].get(GPU):
            # its default for GPUs: a process ends after a task
            options |= {"num_gpus": 1 / BATCHES_A_DEVICE, "max_calls": 0}
        return remote_options(**options)

    def _placed_by_dask(self, stage: Stage, client: Any) -> AbstractContextManager[object]:
        from dask.base import annotate

        workers = client.scheduler_info(n_workers=-1)["workers"]
        nodes = [w["resources"] | w | {"at": address} for address, w in workers.items()]
        having = self._with_gpu(stage, nodes)
        rooms = {w["at"]: w["memory_limit"] or math.inf for w in having}  # 0: without a limit
        check_room(stage, rooms.values())
        large = [address for address, room in rooms.items() if room >= stage.memory]
        gpu = {"resources": {GPU: 1}} if stage.needs == "gpu" and having[0].get(GPU) else {}
        return annotate(workers=large, **gpu)

    def _with_gpu(
        self, stage: Stage, nodes: Sequence[Mapping[str, object]]
    ) -> Sequence[Mapping[str, Any]]:
        """Those for a stage: with a GPU where it needs one, else all; it is said if none has."""
        if stage.needs != "gpu":
            return nodes
        having = [node for node in nodes if node.get(GPU)]
        if self.parameters.cluster and not having:
            self._tell("no worker of the cluster says that it has a GPU")
        return having or nodes

    def _workers(self, stage: Stage) -> int:
        """How many there are: few where models share a GPU, or the memory of this machine."""
        workers, runner = self.parameters.batches_at_once, self.parameters.runner
        if self.parameters.cluster:
            return workers
        if stage.needs == "gpu" and devices():
            workers = min(workers, BATCHES_A_DEVICE * len(devices()))
        room = memory_here() // stage.memory
        if runner in ("process", "dask") and room < workers:
            self._tell(
                f"{stage.name}: {max(1, room)} workers and not {workers}: each takes about "
                f"{stage.memory / 1e9:.1f} GB of the {memory_here() / 1e9:.1f} GB here"
            )
            workers = max(1, room)
        return workers

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            get_run_logger().warning(what)

    def renew(self) -> None:
        """End the runner; the next batch starts another."""
        if self._runner:
            self._runner, runner = None, self._runner
            runner.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the runner; where the run was told to end, its batches are not waited for."""
        if kind is None or issubclass(kind, Exception):
            self.renew()


def check_room(stage: Stage, rooms: Iterable[float]) -> None:
    """Raises FoleyError where none of these has the memory that a stage needs, in bytes."""
    largest = max(rooms, default=0)
    if largest < stage.memory:
        raise FoleyError(
            f"stage {stage.name} needs about {stage.memory / 1e9:.1f} GB of memory, and the "
            f"largest machine or worker for it has {largest / 1e9:.1f} GB: run it where there is "
            "more, or leave it out (docs/operating.md#memory)"
        )


def task_runner(parameters: BatchParameters, workers: int) -> TaskRunner[Any]:
    """A runner that is not started yet. Raises FoleyError where its packages are not installed."""
    makers: dict[str, Callable[[], TaskRunner[Any]]] = {
        "thread": lambda: ThreadPoolTaskRunner(max_workers=workers),
        "process": lambda: ProcessPoolTaskRunner(workers, initializer=end_with_parent),
        "dask": lambda: _dask(parameters, workers),
        "ray": lambda: _ray(parameters),
    }
    return makers[parameters.runner]()


def _dask(parameters: BatchParameters, workers: int) -> TaskRunner[Any]:
    _check("prefect_dask", "dask")
    from prefect_dask.task_runners import DaskTaskRunner

    if parameters.cluster:
        return DaskTaskRunner(address=parameters.cluster)
    own = {
        "n_workers": workers,  # who share the machine's memory
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
