"""Automations under Prefect's own evaluation, with the server's settings and a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prefect import get_client
from prefect.events.schemas.automations import AutomationCore

from flows.server import automations
from flows.server.server import SETTINGS

#: Failed runs whose events are noted some seconds after they occurred, as by a server that was
#: busy; then what the server does every five seconds. Prints the subjects of what each run sends.
LATE = """
import asyncio, json, sys
from datetime import timedelta
from uuid import uuid4

import yaml
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from prefect.server.events.models.automations import create_automation, automations_session
from prefect.server.events.schemas.automations import Automation
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.messaging.memory import Topic
from prefect.types._datetime import now

from flows.server.automations import FILE, WEBHOOK


def event(name, late=0):
    run = f"prefect.flow-run.{uuid4()}"
    tag = {"prefect.resource.id": "prefect.tag.foley", "prefect.resource.role": "tag"}
    return ReceivedEvent(
        occurred=now("UTC") - timedelta(seconds=late),
        event=f"prefect.flow-run.{name}",
        resource={"prefect.resource.id": run, "prefect.run-count": "1"},
        related=[tag],
        payload={},
        id=uuid4(),
    )


async def main(*late):
    await provide_database_interface().create_db()
    async with automations_session(begin_transaction=True) as session:
        for said in yaml.safe_load(FILE.read_text()):
            if said["actions"][0].get("block_document_id") == WEBHOOK:
                said["actions"][0]["block_document_id"] = str(uuid4())
            await create_automation(session, Automation.model_validate(said))
    sent = Topic.by_name("actions").subscribe()
    await triggers.reconcile_automations(force=True)
    await triggers.reactive_evaluation(event("heartbeat"))  # of another run, noted in time
    print(json.dumps([await subjects(sent, seconds) for seconds in late]))


async def subjects(sent, late):
    await triggers.reactive_evaluation(event("Failed", late))
    await triggers.periodic_evaluation(now("UTC"))
    triggers.next_proactive_runs.clear()  # as if its five seconds were over
    await triggers.evaluate_proactive_triggers()
    actions = [json.loads(sent._queue.get_nowait().data) for _ in range(sent._queue.qsize())]
    return [action["action"].get("subject") for action in actions]


asyncio.run(main(*map(float, sys.argv[1:])))
"""


@pytest.mark.slow
def test_a_failed_run_is_told_of_when_its_time_is_up_however_late_it_was_noted(
    tmp_path: Path,
) -> None:
    variables = os.environ | SETTINGS | {"PREFECT_HOME": str(tmp_path)}
    variables |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/p.db"}
    variables.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-c", LATE, "1", "60", "3600"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = ["{{ flow.name }} failed: {{ flow_run.name }}"]
    assert json.loads(done.stdout.splitlines()[-1]) == [[], told, told]


class Forgetful(httpx.HTTPTransport):
    """A connection to a server that makes an automation, and whose first answer is lost."""

    lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if (
            request.method == "POST"
            and request.url.path.endswith("/automations/")
            and not self.lost
        ):
            self.lost = True
            answer.close()
            raise httpx.ReadTimeout("no answer in time", request=request)
        return answer


def test_an_answer_that_was_lost_leaves_no_second_automation(
    api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a name would be enough; two start each crashed run twice."""
    connection = Forgetful()
    name = f"test: {tmp_path.name}"
    said = automations.FILE.read_text().split("# All of them")[0].replace("foley: mark runs", name)
    monkeypatch.setattr(automations, "FILE", tmp_path / "automations.yaml")
    automations.FILE.write_text(said)
    with get_client(sync_client=True, httpx_settings={"transport": connection}) as client:
        automations.set_up(client)
        assert connection.lost
        [made] = [a for a in client.read_automations() if a.name.startswith(name)]
        assert isinstance(made, AutomationCore)
        client.delete_automation(made.id)
