"""Parts of a curation: stages that run here, or in the work pool of what they need."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, WorkPool, WorkPoolStatus
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from flows.display.artifacts import ProgressArtifact
from flows.parameters import BatchParameters, SharedOutParameters
from flows.running.batches import StageCounts, run_stages
from pipeline.curation.registry import clips_of
from pipeline.curation.stage_graph import StageGraph
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.files import Json

DEPLOYMENT = "stages/stages"
_LOOK_EVERY = 2.0  # seconds
#: A run that crashed is started again meanwhile by an automation, up to its fourth start.
_RESTART, _STARTS = 60.0, 4
#: Seconds after which it is said that no worker takes a run; workers look every 5 to 10 s.
_SILENCE = 30.0


@dataclass(frozen=True)
class Part:
    """Scores of the clips of sources (all without any), or features of a dataset's clips.

    `stages` are those of them alone, where there are any.
    """

    policy: str
    sources: tuple[str, ...] = ()
    dataset: Dataset | None = None
    stages: tuple[str, ...] = ()


def run_part(
    wh: Warehouse, graph: StageGraph, parameters: BatchParameters, part: Part
) -> list[StageCounts]:
    """Run the stages of a part in order; Prefect runs those for another pool as runs of their own.

    Raises FoleyError where one is not there, and where batches, or a run in another pool, were
    lost.
    """
    if part.dataset:
        stages, hashes = graph.features, graph.feature_fingerprints
        clip_ids: Sequence[str] | None = part.dataset.clip_ids()
    else:
        stages, hashes = graph.scoring, graph.scoring_fingerprints
        clip_ids = clips_of(wh, part.sources)
    names = [stage.name for stage in stages]
    if unknown := ", ".join(name for name in part.stages if name not in names):
        raise FoleyError(f"no stage {unknown}: there are {', '.join(names)}")
    wanted = [stage for stage in stages if stage.name in (part.stages or names)]
    if not isinstance(parameters, SharedOutParameters) or not parameters.sends_away:
        return run_stages(wh, wanted, hashes, parameters, clip_ids)
    counts: list[StageCounts] = []
    for needs, several in groupby(wanted, key=lambda stage: stage.needs):
        group = list(several)
        if needs == "gpu":
            counts += _elsewhere(wh, parameters, part, [stage.name for stage in group])
        else:
            counts += run_stages(wh, group, hashes, parameters, clip_ids)
    return counts


def _elsewhere(
    wh: Warehouse, parameters: SharedOutParameters, part: Part, names: Sequence[str]
) -> list[StageCounts]:
    """The same by a run of the deployment `stages`, which is of the pool of those that need a GPU.

    It is cancelled with this run. One that this run left behind when it crashed is waited for by
    the next, as they share a lock.
    """
    asked: dict[str, object] = parameters.model_dump(
        mode="json", include={*BatchParameters.model_fields}
    )
    asked |= {"stages": names, "policy": part.policy, "sources": part.sources}
    asked["dataset"] = part.dataset and part.dataset.version
    key = f"{flow_run.id}-{flow_run.run_count}-{names[0]}"
    get_run_logger().info("%s: in a run of deployment %s", ", ".join(names), DEPLOYMENT)
    run = _ended({"parameters": asked}, key, ", ".join(names))
    if run.state and run.state.is_completed():
        # a start that crashed has left a record without stages
        of_run = (r for r in wh.records("runs") if r["flow_run_id"] == str(run.id))
        found = next((r for r in of_run if "stages" in r), None)
        if found is None:
            raise FoleyError(f"run {run.name} has left no record in {wh.home}: is it on this disk?")
        return [StageCounts(**(count | {"lost": ()})) for count in found["stages"]]
    why = run.state and (run.state.message or run.state.name)
    raise FoleyError(f"run {run.name} of {', '.join(names)} ended: {why}")


def _ended(parameters: Json, key: str, what: str) -> FlowRun:
    """A run of the deployment, asked for once however often this is called, when it has ended."""
    run: Any = None
    with get_client(sync_client=True) as client:
        waiting = _Waiting(client, what)
        for start in range(_STARTS):
            if start:
                time.sleep(_RESTART)
            try:
                run = run_deployment(
                    DEPLOYMENT, parameters=parameters, idempotency_key=key, timeout=0
                )
            except ObjectNotFound:
                raise FoleyError(f"there is no deployment {DEPLOYMENT}: run foley deploy") from None
            waiting.since = time.monotonic()
            while not run.state.is_final():
                waiting.look(run)
                time.sleep(_LOOK_EVERY)
                run = client.read_flow_run(run.id)
            if not run.state.is_crashed():
                break
    return run


class _Waiting:
    """Says aloud that nobody takes a run of another pool, and when somebody has."""

    def __init__(self, client: SyncPrefectClient, what: str) -> None:
        self.client, self.what = client, what
        self.since = time.monotonic()
        self.told = False
        self.artifact = ProgressArtifact(what, 1, f"run of {DEPLOYMENT}")

    def look(self, run: FlowRun) -> None:
        """Say it once; by then a worker that is free would have taken it."""
        self.artifact.show(0)  # which ends this run where a person paused it
        is_taken = run.state is not None and not run.state.is_scheduled()
        if is_taken and self.told:
            self.told = False
            self._say(logging.INFO, f"{self.what}: a worker of pool {run.work_pool_name} has begun")
        if not is_taken and not self.told and time.monotonic() - self.since > _SILENCE:
            self.told = True
            pool = self.client.read_work_pool(run.work_pool_name or "")
            self._say(logging.WARNING, f"{self.what}: {_why_nobody(pool)}")

    def _say(self, level: int, text: str) -> None:
        get_run_logger().log(level, text)
        self.artifact.say(text)


def _why_nobody(pool: WorkPool) -> str:
    """Why no worker of a pool takes a run, and what to type; the webhook is told where none is."""
    if pool.is_paused:
        return f"pool {pool.name} is paused: resume it in the UI, under Work Pools"
    if pool.status == WorkPoolStatus.READY:
        return f"the workers of pool {pool.name} are busy, or have just ended: it waits"
    # Prefect tells of a worker that is gone, not of one that never was
    name = {"prefect.resource.id": f"prefect.work-pool.{pool.id}"}
    emit_event("prefect.work-pool.not-ready", name | {"prefect.resource.name": pool.name})
    return (
        f"no worker of pool {pool.name} is there, and it waits. On a machine with a GPU that sees "
        f"this home, type: PREFECT_API_URL={PREFECT_API_URL.value()} prefect worker start "
        f"--type process --pool {pool.name}; or cancel this run, and give gpu_stages: here"
    )
