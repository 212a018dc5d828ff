"""A run that is told to end does, whatever it is doing.

One that was cancelled is not started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Cancelling, Crashed, Pending, Running, Scheduled

from flows.maintenance import maintenance
from flows.parameters import MaintainParameters
from tests.foley.commands import ROOT
from warehouse import Warehouse

DEAF = """
import time
from flows.running import signals
signals.PATIENCE = 0.2
with signals.ends_in_time():
    while True:
        try:
            print("deaf", flush=True)
            time.sleep(600)
        except BaseException:
            pass
"""


def test_the_kernel_ends_what_does_not_hear() -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n" + DEAF
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "deaf\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(110) == -signal.SIGALRM


@pytest.mark.parametrize("here", [True, False])
def test_a_child_whose_parent_is_gone_before_it_began_does_nothing(here: bool) -> None:
    parent = os.getpid() if here else os.getppid()
    command = [sys.executable, "-m", "flows.running.signals", str(parent), "platform"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert bool(done.stdout) == here


ORPHAN = """
import logging, os, sys, threading
from prefect.logging.handlers import PrefectConsoleHandler
from flows.running.signals import outlive_the_worker
logging.getLogger().addHandler(PrefectConsoleHandler())
outlive_the_worker()
print("here", flush=True)
sys.stdin.read()
for thread in threading.enumerate():
    if thread.name == "_drop_unread":
        thread.join()
logging.error("to nobody")
print("to nobody", flush=True)
os._exit(7)
"""


@pytest.mark.parametrize(("of_worker", "code"), [(True, 7), (False, 1)])
def test_a_run_goes_on_without_the_worker_that_reads_its_output(of_worker: bool, code: int) -> None:
    """That of the command line has Prefect's console end it: nobody wants to see more."""
    environment = os.environ | ({"PREFECT__FLOW_RUN_ID": "id"} if of_worker else {})
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", ORPHAN], cwd=ROOT, env=environment, **pipes)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == b"here\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert process.wait(110) == code


@pytest.mark.usefixtures("api")
def test_a_run_that_crashed_while_it_was_cancelled_is_not_done_again_unless_a_person_says_so(
    tmp_path: Path,
) -> None:
    def states(*given: Any) -> Any:
        for state in given:
            client.set_flow_run_state(run.id, state, force=True)
        return run_flow(
            maintenance,
            flow_run=client.read_flow_run(run.id),
            parameters=parameters,
            return_type="state",
        )

    parameters = {"parameters": MaintainParameters(home=tmp_path / "home")}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(maintenance, parameters=parameters, state=Pending())
        assert states(Running(), Cancelling(), Crashed(), Scheduled(), Pending()).is_cancelled()
        assert Warehouse(tmp_path / "home").records("runs") == []
        assert states(Cancelled(), Scheduled(), Pending()).is_completed()
        assert [record["state"] for record in Warehouse(tmp_path / "home").records("runs")] == [
            "completed"
        ]
