"""Brings a server's automations to what automations.yaml says, beside this file."""

from contextlib import suppress
from pathlib import Path

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
    block: object = CustomWebhookNotificationBlock(
        name=WEBHOOK,
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets={"url": url},  # type: ignore[arg-type]
    )
    block.save(WEBHOOK, overwrite=True)


def _replace(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Leave one automation of that name, as it is wanted; one that was switched off stays off.

    Where the server's answer is lost, Prefect's client asks again, and the server makes another
    one: each would start a crashed run. So may two who deploy at once.
    """
    if not client.read_automations_by_name(wanted.name):
        client.create_automation(wanted)
    kept, *extra = sorted(client.read_automations_by_name(wanted.name), key=lambda one: one.id)
    for other in extra:
        with suppress(ObjectNotFound):  # deleted by another who deploys
            client.delete_automation(other.id)
    wanted = wanted.model_copy(update={"enabled": kept.enabled})
    # an update has the server forget which runs it waits for a sign of
    if _content(kept) != _content(wanted):
        client.update_automation(kept.id, wanted)


def _content(automation: AutomationCore) -> dict[str, object]:
    """What an automation says, without the ids that each copy has its own of."""
    fields = set(AutomationCore.model_fields)
    return automation.model_dump(include=fields, exclude={"trigger": {"id"}})
