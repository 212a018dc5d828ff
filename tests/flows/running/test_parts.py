"""Stages that need a GPU, run in the pool of those that have one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Crashed, Scheduled

from flows.curate import curate, stages
from flows.parameters import CurateParameters
from flows.running import parts
from flows.server.register import make_pool
from flows.server.server import GPU_POOL
from tests.flows.running.mortal import Mortal
from warehouse import FoleyError, Warehouse

pytestmark = pytest.mark.usefixtures("api")
SCORES = tuple(f"scores.{name}=false" for name in ("imagebind", "audiobox", "sync"))
POLICY = """
name = "own"
version = 1
stages = ["tests.flows.running.test_parts:Heavy"]
[[gate]]
name = "long"
keep = [{ column = "id_length", above = 1 }]
"""


class Heavy(Mortal):
    """A stage with a model, of a policy of one's own."""

    name = "heavy"

    def __init__(self) -> None:
        super().__init__()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A worker of the pool of GPUs, in a thread of this process, and the deployment it runs.

    It comes once it was said aloud that there is none. The first run crashes; what asked for it
    asks again, and then it is started again. Given is whether it was said until then that there is
    no worker: none has begun.
    """
    for name, value in {
        "_RESTART": 0.2,
        "_STARTS": 1000,
        "_LOOK_EVERY": 0.1,
        "_SILENCE": 0.2,
    }.items():
        monkeypatch.setattr(parts, name, value)
    with get_client(sync_client=True) as client:
        make_pool(client, GPU_POOL)
        place: dict[str, Any] = {"name": "stages", "work_pool_name": GPU_POOL}
        deployment = client.create_deployment(client.create_flow(stages), **place)
    stop, still = threading.Event(), list[bool]()

    def crash(client: SyncPrefectClient, run: FlowRun) -> None:
        assert run.parent_task_run_id
        above = client.read_task_run(run.parent_task_run_id).flow_run_id
        asks = {"flow_run_filter": FlowRunFilter.model_validate({"id": {"any_": [above]}})}
        client.set_flow_run_state(run.id, Crashed(message="its machine is gone"), force=True)
        while sum("run_deployment" in ask.task_key for ask in client.read_task_runs(**asks)) < 2:  # type: ignore[arg-type]
            assert not stop.wait(0.2)
        still.append(said_aloud(client, "no worker of pool foley-gpu is there"))
        client.set_flow_run_state(run.id, Scheduled(), force=True)

    def work() -> None:
        crashed = False
        chosen = FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        )
        with get_client(sync_client=True) as client:
            while not stop.wait(0.2):
                for run in client.read_flow_runs(flow_run_filter=chosen):
                    if not said_aloud(client, "no worker of pool foley-gpu is there"):
                        continue
                    if not crashed:
                        crash(client, run)
                        crashed = True
                        continue
                    assert run.work_pool_name == GPU_POOL
                    run_flow(stages, flow_run=run, parameters=run.parameters, return_type="state")

    thread = threading.Thread(target=work)
    thread.start()
    yield still
    stop.set()
    thread.join()
    with get_client(sync_client=True) as client:
        client.delete_deployment(deployment)


def said_aloud(client: SyncPrefectClient, what: str) -> bool:
    """Whether the progress artifact of the run that waits says this; other tests have theirs."""
    said = {"artifacts": {"key": {"any_": ["progress"]}}, "sort": "UPDATED_DESC"}
    texts = [
        a["description"] for a in client.request("POST", "/artifacts/filter", json=said).json()
    ]
    mine = (t for t in texts if t.startswith("heavy: ") and ("pool" in t or parts.DEPLOYMENT in t))
    return what in next(mine, "")


def test_gpu_stages_run_in_the_pool_of_gpus(
    few: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    policy = tmp_path / "own.toml"
    policy.write_text(POLICY)
    said = {"home": tmp_path / "home", "folder": few, "policy": str(policy), "gpu_stages": "pool"}
    once = {"settings": SCORES, "features": False, "max_attempts": 1}
    parameters = CurateParameters.model_validate(said | once)
    with pytest.raises(FoleyError, match=r"no deployment stages/stages: run foley deploy"):
        curate(parameters)
    still_told = request.getfixturevalue("worker")
    done = curate(parameters)
    assert still_told == [True]
    counted = {count.stage: (count.passed, count.lost) for count in done.stages}
    assert counted == dict.fromkeys(["probe", "silence", "picture"], (0, ())) | {"heavy": (4, ())}
    runs = sorted(Warehouse(tmp_path / "home").records("runs"), key=lambda run: run["started_at"])
    assert [(run["flow"], [c["stage"] for c in run.get("stages", ())]) for run in runs] == [
        ("curate", []),
        ("curate", ["probe", "silence", "picture", "heavy"]),
        ("stages", ["heavy"]),
    ]
    with get_client(sync_client=True) as client:
        assert said_aloud(client, "heavy: a worker of pool foley-gpu has begun")
        # by which the automation of the webhook goes (tests/operations/test_factory.py)
        pool = client.read_work_pool(GPU_POOL)
        asked = {"filter": {"event": {"name": ["prefect.work-pool.not-ready"]}}}
        resources = [
            event["resource"]
            for event in client.request("POST", "/events/filter", json=asked).json()["events"]
        ]
        assert {
            "prefect.resource.id": f"prefect.work-pool.{pool.id}",
            "prefect.resource.name": GPU_POOL,
        } in resources
