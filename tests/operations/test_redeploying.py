"""Deploying again, over what a person has set since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.operations.factory import Factory, foley
from warehouse import Warehouse

pytestmark = pytest.mark.slow


@pytest.fixture
def put_back(factory: Factory) -> Iterator[None]:
    """What other tests need is as it was, also where the test fails."""
    yield
    curate = factory.deployment("curate")["id"]
    factory.ask(f"/automations/{trigger(factory)['id']}", "PATCH", {"enabled": True})
    factory.ask(f"/deployments/{curate}", "PATCH", {"parameters": {"parameters": {}}})


@pytest.mark.usefixtures("put_back")
def test_deploying_again_leaves_what_a_person_set_and_drops_what_the_file_had(
    factory: Factory, curated: str
) -> None:
    """A schedule made and one paused in the UI, parameters changed, a trigger switched off.

    And one removed, beside one that an earlier file had.
    """
    assert curated  # by which there is a dataset to offer
    curate, train, upkeep = (factory.deployment(n) for n in ("curate", "train", "maintenance"))
    yearly = {"schedule": {"cron": "0 0 1 1 *", "timezone": "UTC"}, "active": True}
    own = yearly | {"parameters": {"parameters": {"workers": 3}}}
    factory.ask(f"/deployments/{train['id']}/schedules", "POST", [yearly | {"slug": "renamed"}])
    factory.ask(f"/deployments/{curate['id']}/schedules", "POST", [own])
    [nightly] = curate["schedules"]
    nightly_path = f"/deployments/{curate['id']}/schedules/{nightly['id']}"
    factory.ask(nightly_path, "PATCH", {"active": False})
    changed = {"parameters": {"parameters": {"batch_size": 7}}}
    factory.ask(f"/deployments/{curate['id']}", "PATCH", changed)
    [weekly] = upkeep["schedules"]
    factory.ask(f"/deployments/{upkeep['id']}/schedules/{weekly['id']}", "DELETE")
    factory.ask(f"/automations/{trigger(factory)['id']}", "PATCH", {"enabled": False})
    before = factory.deployment("curate")["schedules"]
    said_otherwise(factory)
    done = foley(
        "deploy",
        "--home",
        factory.home,
        PREFECT_API_URL=f"{factory.address}/api",
        PREFECT_HOME=str(factory.home / "prefect"),
    )
    assert done.returncode == 0, done.stderr
    found = factory.deployment("curate")
    assert found["schedules"] == before
    assert {(s["slug"], s["active"]) for s in before} == {("nightly", False), (None, True)}
    assert found["parameters"] == changed["parameters"]
    assert factory.deployment("train")["schedules"] == []
    assert factory.deployment("maintenance")["schedules"] == []
    assert not trigger(factory)["enabled"]
    assert [s["active"] for s in factory.deployment("health")["schedules"]] == [True]
    form = factory.deployment("train")["parameter_openapi_schema"]["definitions"]
    offered = form["TrainParameters"]["properties"]["dataset"]["anyOf"][0]["enum"]
    assert {"main", Warehouse(factory.home).dataset("main").version} <= set(offered)


def said_otherwise(factory: Factory) -> None:
    """As if the file had health's schedule off when it was last deployed."""
    [daily] = factory.deployment("health")["schedules"]
    path = f"/deployments/{daily['deployment_id']}/schedules/{daily['id']}"
    factory.ask(path, "PATCH", {"active": False})
    noted = factory.ask("/variables/name/foley_deployed")["value"]
    noted["health/health"]["schedules"]["daily"]["active"] = False
    factory.ask("/variables/name/foley_deployed", "PATCH", {"value": noted})


def trigger(factory: Factory) -> dict[str, Any]:
    """The automation that starts curation after a download."""
    [found] = [
        automation
        for automation in factory.ask("/automations/filter", "POST")
        if automation["name"] == "foley curate after download"
    ]
    return found
