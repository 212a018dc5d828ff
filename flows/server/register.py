"""Brings a Prefect server to what deployments/prefect.yaml says.

Pools, deployments, schedules, automations.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.server.automations import save_webhook, set_up
from flows.server.supervisor import POOLS
from warehouse.errors import FoleyError

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"


def register(gpus: int = 1, webhook: str | None = None, file: Path = FILE) -> list[str]:
    """Register everything at PREFECT_API_URL, idempotently; the names of the deployments.

    `gpus` is how many runs of the GPU pool go at once. Raises FoleyError with what `prefect deploy`
    said when it fails.
    """
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            _pool(client, pool, gpus if pool.endswith("-gpu") else None)
        _deploy(file)
        names = _reconcile(client, file)
        if webhook:
            save_webhook(webhook)
        set_up(client)
    return names


def _pool(client: SyncPrefectClient, name: str, limit: int | None) -> None:
    """A process pool, unless there is a pool of that name of any type.

    The GPU pool runs one run a device.
    """
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template)
        )
    if limit is not None:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def _deploy(file: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        said = [line.strip(" │╭╰─╮╯") for line in (done.stdout + done.stderr).splitlines()]
        raise FoleyError(f"prefect deploy failed: {' '.join(line for line in said if line)[-600:]}")


def _reconcile(client: SyncPrefectClient, file: Path) -> list[str]:
    """Remove schedules that the file had and has no more: Prefect leaves renamed and removed ones active.

    Those of the file have a slug; those that a person made in the UI have none, and stay.
    """
    names: list[str] = []
    for wanted in yaml.safe_load(file.read_text())["deployments"]:
        flow = wanted["entrypoint"].rsplit(".", 1)[-1]
        name = f"{flow}/{wanted['name']}"
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise FoleyError(
                f"deployment {name} is not on the server after prefect deploy: see {file}"
            ) from None
        slugs = {schedule["slug"] for schedule in wanted.get("schedules", ())}
        for schedule in deployment.schedules:
            slug = getattr(schedule, "slug", None)
            if slug and slug not in slugs:
                client.delete_deployment_schedule(deployment.id, schedule.id)
        names.append(name)
    return names
