"""Registers the deployments of deployments/prefect.yaml, and leaves what a person set in the UI.

What the file said when it was last deployed is kept on the server: what differs from it in the file
is the file's change, and what differs from it on the server is a person's.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable

from flows.server.forms import choices, form
from warehouse.errors import FoleyError
from warehouse.files import Json

FILE = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
_LAST = "foley_deployed"  # name of the variable


def deploy(client: SyncPrefectClient, home: Path) -> list[str]:
    """Bring deployments to what the file says; their names.

    Forms offer what is in the warehouse `home`. A schedule that was paused, added or removed in the
    UI stays so, and so do parameters that were changed there and triggers that were switched off.
    Raises FoleyError with what `prefect deploy` said when it fails.
    """
    content = yaml.safe_load(FILE.read_text())
    noted: Any = Variable.get(_LAST, {})
    wanted: dict[str, Json] = {_name(entry): entry for entry in content["deployments"]}
    now = {name: _changeable(entry) for name, entry in wanted.items()}
    for name, entry in wanted.items():
        if there := _read(client, name):  # else its schedules are made with it
            last = noted.get(name, {"parameters": {}, "schedules": {}})
            entry.pop("schedules", None)
            _set_schedules(client, there, last["schedules"], now[name]["schedules"])
            entry["parameters"] = merged(
                last["parameters"], now[name]["parameters"], there.parameters
            )
        triggers = now[name]["triggers"]
        for trigger in entry.get("triggers", ()):
            if found := client.read_automations_by_name(trigger["name"]):
                on = {trigger["name"]: all(automation.enabled for automation in found)}
                last_on = noted.get(name, {}).get("triggers", triggers)
                trigger["enabled"] = merged(last_on, triggers, on)[trigger["name"]]
    _prefect_deploy(content)
    made = {name: _read(client, name) for name in wanted}
    if missing := [name for name, there in made.items() if there is None]:
        raise FoleyError(f"prefect deploy did not make {', '.join(missing)} of {FILE}")
    offered = choices(home)
    for there in filter(None, made.values()):
        shown = form(there.parameter_openapi_schema or {}, offered)
        client.update_deployment(there.id, DeploymentUpdate(parameter_openapi_schema=shown))
    Variable.set(_LAST, now, overwrite=True)
    return list(wanted)


def merged(
    last: Mapping[str, object], now: Mapping[str, object], there: Mapping[str, object]
) -> Json:
    """What is there, with what changed from `last` to `now`; values that are mappings likewise."""
    result = dict(there)
    for key in {*last, *now}:
        new, own = now.get(key), there.get(key)
        old = last.get(key, {} if isinstance(new, dict) else None)
        if isinstance(old, dict) and isinstance(new, dict) and isinstance(own, dict):
            result[key] = merged(old, new, own)
        elif key not in now and own == old:
            result.pop(key, None)
        elif key in now and new != old:
            result[key] = new
    return result


def _name(entry: Json) -> str:
    return f"{entry['entrypoint'].rpartition('.')[2]}/{entry['name']}"


def _changeable(entry: Json) -> Json:
    """What of a deployment a person changes too."""
    schedules = {schedule["slug"]: dict(schedule) for schedule in entry.get("schedules", ())}
    triggers = {
        trigger["name"]: trigger.get("enabled", True) for trigger in entry.get("triggers", ())
    }
    parameters = entry.get("parameters", {})
    return {"parameters": parameters, "schedules": schedules, "triggers": triggers}


def _read(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _set_schedules(
    client: SyncPrefectClient, there: DeploymentResponse, last: Json, now: Json
) -> None:
    """Make, change and remove schedules as the file does; those of a person have no slug."""
    present = {schedule.slug: schedule for schedule in there.schedules if schedule.slug}
    for slug in present.keys() - now.keys():
        client.delete_deployment_schedule(there.id, present[slug].id)
    for slug, said in now.items():
        if slug in present and (changed := schedule_changes(last.get(slug, said), said)):
            client.update_deployment_schedule(there.id, present[slug].id, **changed)
        elif slug not in present and slug not in last:
            client.create_deployment_schedules(there.id, [(_cron(said), said["active"])], slug=slug)


def schedule_changes(last: Json, now: Json) -> Json:
    """What changed of a schedule in the file: when it runs, and whether, as the client takes it."""
    changed = {name for name in now if now[name] != last.get(name)}
    cron = {"schedule": _cron(now)} if changed & {"cron", "timezone"} else {}
    return cron | ({"active": now["active"]} if "active" in changed else {})


def _cron(said: Json) -> CronSchedule:
    return CronSchedule(cron=said["cron"], timezone=said["timezone"])


def _prefect_deploy(content: Mapping[str, object]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "prefect.yaml")
        file.write_text(yaml.safe_dump(content))
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        command = [*prefect, "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip(" │╭╰─╮╯") for line in (done.stdout + done.stderr).splitlines()]
        raise FoleyError(f"prefect deploy failed: {' '.join(filter(None, lines))[-600:]}")
