"""Brings a server's automations to what automations.yaml says, beside this file."""

from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from warehouse.errors import FoleyError

FILE = Path(__file__).with_name("automations.yaml")
WEBHOOK = "foley-webhook"  # name of the block, and what stands for its id in the file


def set_up(client: SyncPrefectClient) -> None:
    """Create or update the automations; those of the webhook once a webhook is saved."""
    try:
        block = str(client.read_block_document_by_name(WEBHOOK, "custom-webhook").id)
    except ObjectNotFound:
        block = None
    for automation in yaml.safe_load(FILE.read_text()):
        action = automation["actions"][0]
        if action.get("block_document_id") == WEBHOOK:
            if block is None:
                continue
            action["block_document_id"] = block
        _replace(client, AutomationCore.model_validate(automation))


def save_webhook(url: str) -> None:
    """Keep the address that failures are told to, as a secret block: it may hold a token."""
    if not url.startswith(("http://", "https://")):
        raise FoleyError("the webhook is no address: give one that begins with https:// or http://")
    block: Any = CustomWebhookNotificationBlock(
        name=WEBHOOK,
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets={"url": url},  # type: ignore[arg-type]
    )
    block.save(WEBHOOK, overwrite=True)


def _replace(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Leave one automation of that name, as it is wanted; one that was switched off stays off."""
    present = client.read_automations_by_name(wanted.name)
    if not present:
        client.create_automation(wanted)
        return
    for extra in present[1:]:
        client.delete_automation(extra.id)
    wanted = wanted.model_copy(update={"enabled": present[0].enabled})
    # an update has the server forget which runs it waits for a sign of
    if _content(present[0]) != _content(wanted):
        client.update_automation(present[0].id, wanted)


def _content(automation: AutomationCore) -> dict[str, Any]:
    """What an automation says, without the ids that each copy has its own of."""
    fields = set(AutomationCore.model_fields)
    return automation.model_dump(include=fields, exclude={"trigger": {"id"}})
