"""Brings a Prefect server to what deployments/prefect.yaml says: pools, deployments, schedules."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.server.automations import save_webhook, set_up
from flows.server.supervisor import POOLS
from warehouse.errors import FoleyError

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"


def register(gpus: int = 1, webhook: str | None = None) -> list[str]:
    """Register everything at PREFECT_API_URL, idempotently; the names of the deployments.

    `gpus` is how many runs of the GPU pool go at once. Raises FoleyError with what `prefect deploy`
    said when it fails.
    """
    deployments = yaml.safe_load(FILE.read_text())["deployments"]
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            _make_pool(client, pool)
        client.update_work_pool("foley-gpu", WorkPoolUpdate(concurrency_limit=gpus))
        _deploy()
        names = [_drop_old_schedules(client, deployment) for deployment in deployments]
        if webhook:
            save_webhook(webhook)
        set_up(client)
    return names


def _make_pool(client: SyncPrefectClient, name: str) -> None:
    """A process pool, unless there is a pool of that name of any type."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def _deploy() -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    command = [*prefect, "deploy", "--all", "--prefect-file", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip(" │╭╰─╮╯") for line in (done.stdout + done.stderr).splitlines()]
        raise FoleyError(f"prefect deploy failed: {' '.join(filter(None, lines))[-600:]}")


def _drop_old_schedules(client: SyncPrefectClient, wanted: dict[str, Any]) -> str:
    """Remove schedules that the file had and has no more, which Prefect would leave active.

    Those of the file have a slug; those that a person made in the UI have none, and stay.
    """
    name = f"{wanted['entrypoint'].rpartition('.')[2]}/{wanted['name']}"
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise FoleyError(f"prefect deploy did not make the deployment {name} of {FILE}") from None
    slugs = {schedule["slug"] for schedule in wanted.get("schedules", ())}
    for schedule in deployment.schedules:
        if schedule.slug and schedule.slug not in slugs:
            client.delete_deployment_schedule(deployment.id, schedule.id)
    return name
