"""Brings a Prefect server to what this project wants of it: pools, deployments, automations."""

from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from flows.server.automations import save_webhook, set_up
from flows.server.deployments import deploy
from flows.server.server import GPU_POOL, POOLS


def register(home: Path, gpus: int = 1, webhook: str | None = None) -> list[str]:
    """Register everything at PREFECT_API_URL, idempotently; the names of the deployments.

    Forms offer the datasets and checkpoints of the warehouse `home`.

    `gpus` is how many runs of the GPU pool go at once, 0 to leave that as it is. Raises FoleyError
    where a deployment cannot be made.
    """
    # what a busy server has not answered yet is better not asked again
    with get_client(sync_client=True, httpx_settings={"timeout": 600}) as client:
        for pool in POOLS:
            make_pool(client, pool)
        if gpus:
            client.update_work_pool(GPU_POOL, WorkPoolUpdate(concurrency_limit=gpus))
        names = deploy(client, home)
        if webhook:
            save_webhook(webhook)
        set_up(client)
    return names


def make_pool(client: SyncPrefectClient, name: str) -> None:
    """A process pool, unless there is a pool of that name of any type."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)
