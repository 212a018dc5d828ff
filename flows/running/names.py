"""Names of runs in the UI: what they are about, where a person typed none."""

import re
from collections.abc import Callable

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

#: Prefect's own, two words such as brave-otter, or Brave-Otter, which its form fills in.
_MADE_UP = re.compile(r"[A-Za-z]+-[A-Za-z]+")


def named(template: str) -> Callable[[], str]:
    """A flow's `flow_run_name`: the template with the flow's arguments, or the name typed."""

    def name() -> str:
        typed = flow_run.name or ""
        return template.format(**flow_run.parameters) if _MADE_UP.fullmatch(typed) else typed

    return name


def add_to_name(name: str, what: str) -> None:
    """Say in the run's name what came of it, where that is still the `name` it was given here."""
    run = FlowRunContext.get()
    if run and run.flow_run and run.flow_run.name == name:
        run.flow_run.name = f"{name}: {what}"
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(run.flow_run.id, run.flow_run.name)
