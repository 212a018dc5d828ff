"""What an operator does with `foley up`.

Runs, forms, schedules, and notifications.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.running.devices import devices
from tests.foley.commands import ROOT
from tests.operations.conftest import Told
from tests.operations.factory import Factory, foley, records, until
from warehouse import Warehouse

pytestmark = pytest.mark.slow
WANTED: dict[str, Any] = {
    deployment["name"]: deployment
    for deployment in yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())[
        "deployments"
    ]
}


@pytest.fixture(scope="module")
def scheduled(factory: Factory, curated: str) -> str:
    """Id of a deployment with a schedule that is due soon.

    Made before the tests, which do not wait for it. Due three times, because what is due before
    the scheduler next looks is never run.
    """
    id = str(factory.deployment("reselect")["id"])
    begin = datetime.now(UTC) + timedelta(seconds=40)
    soon = f"DTSTART:{begin:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY;COUNT=3"
    thrice = [{"schedule": {"rrule": soon, "timezone": "UTC"}, "active": True}]
    factory.ask(f"/deployments/{id}/schedules", "POST", thrice)
    return id


@pytest.fixture(scope="module", autouse=True)
def early(killed: object, scheduled: str) -> None:
    """What takes its time is begun before all tests."""


def test_every_deployment_is_there_with_a_form_that_explains_itself(factory: Factory) -> None:
    for name, wanted in WANTED.items():
        found = factory.deployment(name)
        assert found["work_pool_name"] == wanted["work_pool"]["name"]
        assert found["tags"] == wanted["tags"]
        assert found["description"].strip() == wanted["description"].strip()
        slugs = {
            s["slug"] for s in found["schedules"] if s["slug"]
        }  # those made by a person have none
        assert slugs == {s["slug"] for s in wanted.get("schedules", ())}
        schema = found["parameter_openapi_schema"]
        form = schema["definitions"][schema["properties"]["parameters"]["$ref"].rsplit("/", 1)[1]]
        assert form["properties"]
        assert [
            field for field, said in form["properties"].items() if not said.get("description")
        ] == []


def test_a_run_shows_what_it_found(factory: Factory, curated: str) -> None:
    shown = factory.artifacts(curated)
    last = ["look-further", "dropped", "failures", "scores", "funnel", "curation-report"]
    assert list(shown) == ["progress", *last]  # the UI has the newest on top
    chosen = {"flow_run_id": {"any_": [curated]}, "key": {"any_": ["progress"]}}
    assert len(factory.ask("/artifacts/filter", "POST", {"artifacts": chosen})) == 1
    assert shown["progress"]["data"] == 100
    assert shown["progress"]["description"].startswith("text_embeddings: ")
    assert shown["funnel"]["data"].startswith("data:image/svg+xml;base64,")
    assert shown["scores"]["data"].startswith("data:image/svg+xml;base64,")
    why = {
        failure["clip_id"]: failure["reason"] for failure in json.loads(shown["failures"]["data"])
    }
    assert why["small/bad-05-empty"].startswith("an empty file")
    assert not any(
        reason.startswith("/") for reason in why.values()
    )  # a narrow table shows the beginning
    assert "foley sql" in shown["look-further"]["data"]
    dataset = str(
        next(
            run["dataset"]
            for run in Warehouse(factory.home).records("runs")
            if run["flow_run_id"] == curated
        )
    )
    link = f"(/reports/curation-{dataset}.html)"  # of the host that the person knows
    assert link in shown["curation-report"]["data"]
    catalog = factory.client.get(f"{factory.address}/catalog").text
    assert f'href="{link[1:-1]}"' in catalog
    assert factory.client.get(f"{factory.address}{link[1:-1]}").is_success
    made = {
        "event": {"name": ["prefect.asset.materialization.succeeded"]},
        "resource": {"id": [f"foley://dataset/{dataset}"]},
    }
    event = until(
        lambda: factory.ask("/events/filter", "POST", {"filter": made})["events"],
        600,
        "the dataset as an asset",
    )[0]
    from_what = [thing["prefect.resource.id"] for thing in event["related"]]
    assert any(thing.startswith("foley://scores/imagebind-") for thing in from_what)
    run = factory.run(curated)
    assert re.fullmatch(r"curate small: \d+ new", run["name"])
    assert {"foley", "curation"} <= set(run["tags"])


def test_logs_are_a_line_a_batch(factory: Factory, curated: str, clips: Path) -> None:
    count = len(list(clips.glob("*.mp4")))

    def probed() -> bool:
        lines = [
            line
            for line in factory.logs(curated)
            if line.startswith("probe: ") and "passed," in line
        ]
        numbers = [
            [int(number) for number in re.findall(r"(\d+) (?:passed|rejected|failed)", line)]
            for line in lines
        ]
        return sum(map(sum, numbers)) == count

    until(probed, 600, "a line for every batch of probe arrives")
    lines = [line for line in factory.logs(curated) if "passed," in line]
    assert len(lines) < count * 7 / 3
    assert not any("Traceback" in line for line in factory.logs(curated))
    if not devices():
        assert any("no GPU here" in line for line in factory.logs(curated))


def test_the_command_reports_to_the_server_that_is_up(
    factory: Factory, clips: Path, curated: str
) -> None:
    done = foley("curate", clips, "--home", factory.home)
    assert done.returncode == 0, done.stderr
    state, id = records(factory.home, "curate")[-1]
    assert state == "completed"
    assert factory.run(str(id))["state_type"] == "COMPLETED"


@pytest.mark.parametrize(
    "parameters",
    [
        {"batch_size": 0},
        {"workers": 5000},
        {"policy": "lenient"},
        {"runner": "spark"},
        {"no_such": 1},
    ],
)
def test_a_bad_value_is_refused_when_the_form_is_sent(
    factory: Factory, parameters: dict[str, Any]
) -> None:
    answer = factory.submit("curate", **parameters)
    assert answer.status_code == 409, answer.text
    field = next(iter(parameters))
    assert "Validation failed for field 'parameters" in answer.text
    assert field in answer.text


def test_what_no_form_sees_and_what_is_not_well_fails_with_one_clear_line_and_is_told(
    factory: Factory, told: Told, curated: str
) -> None:
    assert curated  # of clips some of which fail
    ill = factory.start("health")
    fields = factory.start("curate", name="small")  # two fields that do not go together
    folder = factory.start("curate", folder="/no/such/folder")
    factory.ask(f"/flow_runs/{folder}", "PATCH", {"name": "Typed by hand"})
    assert "name is 'small'" in factory.reaches(fields, "FAILED")["state"]["message"]
    failed = factory.reaches(folder, "FAILED")
    assert failed["state"]["message"].startswith("/no/such/folder: no such folder")
    assert failed["name"] == "Typed by hand"
    assert not any("Traceback" in line for line in factory.logs(folder))
    found = factory.reaches(ill, "FAILED")["state"]["message"]
    assert re.fullmatch(r"\d+ of \d+ clips failed probe", found)
    for what in ("/no/such/folder", found):
        texts = until(
            lambda what=what: [m["text"] for m in told.messages if what in m["text"]], 600, what
        )
        assert factory.address in texts[0]
    assert "s3cret" not in str(factory.ask("/block_documents/filter", "POST"))


def test_a_late_run_a_dead_worker_and_a_crash_that_is_left_are_told(
    factory: Factory, told: Told
) -> None:
    """A worker that gives no sign is a stopped one: one that ended is started again."""
    for about in ("late runs", "pools without a worker"):
        sooner(factory, f"foley: tell of {about}")
    worker = until(lambda: factory.worker("foley-gpu"), 300, "a worker")
    os.kill(worker, signal.SIGSTOP)
    left, late = factory.start("features"), factory.start("features")
    try:
        factory.told(left, type="CRASHED", message="it could not be begun")  # at its first start
        for what in (
            f"features crashed and is left: {factory.run(left)['name']}\nit could not be begun",
            f"features is late: {factory.run(late)['name']}\n",
            "no worker for foley-gpu\n",
        ):
            until(lambda what=what: any(what in m["text"] for m in told.messages), 300, what)
    finally:
        os.kill(worker, signal.SIGCONT)
        factory.told(late, type="CANCELLED")
    assert factory.states(left)[-1]["type"] == "CRASHED"


def sooner(factory: Factory, name: str) -> None:
    """Have an automation wait as short as Prefect allows, not as long as ours do."""
    every = factory.ask("/automations/filter", "POST")
    [found] = [automation for automation in every if automation["name"] == name]
    said = {key: found[key] for key in ("name", "description", "trigger", "actions")}
    said["trigger"]["within"] = 10
    factory.ask(f"/automations/{found['id']}", "PUT", said)


def test_a_scheduled_run_fires(factory: Factory, scheduled: str) -> None:
    ended = {
        "deployment_id": {"any_": [scheduled]},
        "state": {"type": {"any_": ["COMPLETED", "FAILED"]}},
    }
    run = until(
        lambda: factory.ask("/flow_runs/filter", "POST", {"flow_runs": ended}), 600, "a run"
    )[0]
    assert run["auto_scheduled"]
    assert run["state_type"] == "COMPLETED", run["state"]
    for schedule in factory.deployment("reselect")["schedules"]:
        if not schedule["slug"]:  # that of the fixture, which has done what it was for
            factory.ask(f"/deployments/{scheduled}/schedules/{schedule['id']}", "DELETE")


def test_a_finished_download_starts_curation(factory: Factory, curated: str) -> None:
    before = {run["id"] for run in runs_of(factory, "curate")}
    code = "from prefect import flow\nflow(name='download')(lambda: None)()"
    variables = {**os.environ, "PREFECT_API_URL": f"{factory.address}/api"}
    subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=ROOT, check=True, capture_output=True
    )
    started = until(
        lambda: {run["id"] for run in runs_of(factory, "curate")} - before, 600, "a curate run"
    )
    factory.reaches(started.pop(), "COMPLETED")


def runs_of(factory: Factory, name: str) -> list[dict[str, Any]]:
    """Runs of a deployment that are not merely planned."""
    chosen = {"deployment_id": {"any_": [factory.deployment(name)["id"]]}}
    found = factory.ask("/flow_runs/filter", "POST", {"flow_runs": chosen})
    return [run for run in found if not run["auto_scheduled"]]
