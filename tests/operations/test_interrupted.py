"""Runs that end early: killed, cancelled, paused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.operations.conftest import Killed
from tests.operations.factory import Factory, records, until, waits
from warehouse import Warehouse

pytestmark = pytest.mark.slow


def test_a_killed_run_is_started_again_while_a_live_one_is_left(
    factory: Factory, killed: Killed
) -> None:
    said = until(lambda: crashed(factory, killed.dead), 300, "the dead run is marked")
    assert "no heartbeat" in said
    assert factory.run(killed.dead)["auto_scheduled"]
    until(lambda: factory.run(killed.dead)["run_count"] == 2, 300, "the dead run is started again")
    states = factory.states(killed.dead)
    told = "\n".join(f"{s['timestamp']} {s['name']}: {s['message']}" for s in states)
    assert [state["name"] for state in states].count("AwaitingRetry") == 1, told
    until(partial(waits, factory, killed.dead), 600, "it waits again")
    assert factory.run(killed.live)["state_type"] == "RUNNING"
    assert crashed(factory, killed.live) == ""
    noted = ["killed", "running"]
    until(
        lambda: [state for state, _ in records(killed.home, "maintenance")] == noted,
        600,
        "both runs are noted",
    )
    factory.cancels(
        killed.dead
    )  # the live one goes on until `foley down` ends it, in the fixture `factory`


def test_cancelling_ends_the_process_and_the_next_run_goes_on(
    factory: Factory, curated: str
) -> None:
    id = factory.start("train", steps=1_000_000)
    factory.moves(id)
    factory.cancels(id)
    assert records(factory.home, "train")[-1] == ("cancelled", id)
    factory.reaches(factory.start("train", steps=3), "COMPLETED")


def test_a_paused_and_a_cancelled_curation_leave_a_warehouse_that_continues(
    factory: Factory, few: Path, tmp_path: Path
) -> None:
    """Dask's worker runs the batches: it ends too, and is not started anew.

    Pause sends Prefect's state `Suspended`.
    """
    home = tmp_path / "home"
    parameters = {
        "home": str(home),
        "folder": str(few),
        "batch_size": 1,
        "workers": 1,
        "max_attempts": 1,
    }
    id = factory.start("curate", **parameters, runner="dask")
    until(lambda: list(home.glob("commits/probe/*/*.parquet")), 600, "the first stage")
    factory.told(id, type="PAUSED", name="Suspended", state_details={"pause_reschedule": True})
    until(lambda: not factory.processes(of_run=id), 600, "the process is gone")
    assert factory.run(id)["state_name"] == "Suspended"
    done = {path.name for path in home.glob("commits/*/*/*.parquet")}
    factory.ask(f"/flow_runs/{id}/resume", "POST")
    until(
        lambda: list(home.glob("commits/imagebind/*/*.parquet")),
        600,
        "it goes on, to a later stage",
    )
    assert done <= {path.name for path in home.glob("commits/*/*/*.parquet")}
    factory.cancels(id)
    factory.reaches(
        factory.start("curate", **parameters | {"runner": "process", "batch_size": 8}), "COMPLETED"
    )
    assert len(Warehouse(home).dataset("main").clip_ids()) == 3
    first, cancelled, last = (state for state, _ in records(home, "curate"))
    assert (first, last) == ("paused", "completed")
    assert cancelled in ("cancelled", "killed")  # by the kernel, where the machine is too busy


def crashed(factory: Factory, id: str) -> str:
    """Messages of the states in which a run was crashed."""
    return " ".join(state["message"] for state in factory.states(id) if state["type"] == "CRASHED")
