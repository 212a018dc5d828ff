"""Automations that watch over our runs: mark the dead, start them again, and tell somebody what failed.

Only runs with the tag `foley` are touched, so that they can be on a server that others use too.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from warehouse.errors import FoleyError

#: Three heartbeats (30 s each, PREFECT_FLOWS_HEARTBEAT_FREQUENCY) that did not come. With Prefect's
#: own 180 s between heartbeats this window would end live runs, so every place that starts our runs
#: sets both.
WINDOW = timedelta(seconds=90)
#: Starts of one run: the first and those after it was killed. A run that kills its machine must
#: end.
MAX_STARTS = 4
TAG = "foley"
BLOCK = "foley-webhook"
_RUNS: Any = {"prefect.resource.id": "prefect.flow-run.*"}
_OURS: Any = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
_ENDS = {
    f"prefect.flow-run.{name}"
    for name in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Cancelling")
}


def _dead_are_marked() -> AutomationCore:
    """A run that lived (a heartbeat) and then gave no sign for the window is Crashed."""
    return AutomationCore(
        name="foley: mark runs whose process is gone",
        description="No heartbeat for 90 s, where one comes every 30 s.",
        trigger=EventTrigger(
            match=_RUNS,
            match_related=_OURS,
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.Paused",
                "prefect.flow-run.Suspended",
                *_ENDS,
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=WINDOW,
        ),
        actions=[
            ChangeFlowRunState(state="CRASHED", message="its process gave no heartbeat for 90 s")
        ],  # type: ignore[arg-type]
    )


def _dead_are_restarted() -> AutomationCore:
    """A run that lived and then crashed is scheduled again, where it has a deployment to run it.

    A run that crashed before it started (its code cannot be imported, say) is left: it would crash
    again. One that is killed again and again is left after its last start.
    """
    return AutomationCore(
        name="foley: start crashed runs again",
        description="The same run goes on with what is not committed yet.",
        trigger=EventTrigger(
            match=_RUNS | {"prefect.run-count": [str(count) for count in range(1, MAX_STARTS)]},
            match_related=_OURS,
            expect={"prefect.flow-run.Crashed"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            ChangeFlowRunState(
                state="SCHEDULED", name="AwaitingRetry", message="started again after a crash"
            )
        ],  # type: ignore[arg-type]
    )


def _failed_are_told(block: Any) -> AutomationCore:
    return AutomationCore(
        name="foley: tell of failed runs",
        trigger=EventTrigger(
            match=_RUNS,
            match_related=_OURS,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.TimedOut"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }} failed: {{ flow_run.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


def set_up(client: SyncPrefectClient) -> list[str]:
    """Create or update the automations; their names.

    The webhook's is there once a webhook is saved.
    """
    wanted = [_dead_are_marked(), _dead_are_restarted()]
    if (block := _block(client)) is not None:
        wanted.append(_failed_are_told(block))
    for automation in wanted:
        _replace(client, automation)
    return [automation.name for automation in wanted]


def save_webhook(url: str) -> None:
    """Keep the address that failures are told to, as a secret block: it may hold a token."""
    if not url.startswith(("http://", "https://")):
        raise FoleyError(
            "the webhook is no address: give one that begins with https:// (or http:// on this machine)"
        )
    block: Any = CustomWebhookNotificationBlock(
        name=BLOCK,
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets={"url": url},  # type: ignore[arg-type]
    )
    block.save(BLOCK, overwrite=True)


def _block(client: SyncPrefectClient) -> Any:
    try:
        return client.read_block_document_by_name(BLOCK, "custom-webhook").id
    except ObjectNotFound:
        return None


def _replace(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Leave one automation of that name, as it is wanted.

    One that a person switched off stays off.
    """
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return
    for extra in known[1:]:
        client.delete_automation(extra.id)
    wanted = wanted.model_copy(update={"enabled": known[0].enabled})
    if _said(known[0]) != _said(
        wanted
    ):  # an update has the server forget which runs it waits for a sign of
        client.update_automation(known[0].id, wanted)


def _said(automation: AutomationCore) -> Any:
    """What an automation says, in one order and without the ids that each copy has its own of."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if key != "id"}
        return (
            sorted(map(plain, value), key=repr) if isinstance(value, list) else value
        )  # some were sets

    return plain(automation.model_dump(mode="json", include=set(AutomationCore.model_fields)))
