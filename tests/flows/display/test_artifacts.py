"""What a run shows, on a real Prefect API that is busy for a moment."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from flows.display import artifacts
from flows.display.artifacts import ProgressArtifact

pytestmark = pytest.mark.usefixtures("api")


def test_a_bar_that_a_busy_server_did_not_take_is_made_at_the_next_movement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = artifacts.artifacts.create_progress_artifact, []

    def create(**values: Any) -> Any:
        asked.append(values)
        if len(asked) == 1:
            raise ConnectionError("database is locked")
        return real(**values)

    monkeypatch.setattr(artifacts.artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "_EVERY", 0.0)

    @flow
    def work() -> UUID:
        bar = ProgressArtifact("work", 4)
        bar.show(1)
        ProgressArtifact("more work", 4).show(3)
        return UUID(flow_run.id)

    id = work()
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[id]))
        found = client.read_artifacts(artifact_filter=chosen)
    assert [(bar.key, bar.data, bar.description) for bar in found] == [
        ("progress", 75.0, "more work: 4 clips")
    ]
    assert len(asked) == 2  # one bar for all steps of a run
