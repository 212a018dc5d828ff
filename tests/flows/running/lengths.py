"""A stage that needs no model, and how it is run in a flow of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from prefect import flow

from flows.parameters import BatchParameters
from flows.running.batches import StageCounts, run_stages
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from warehouse import Warehouse, field


@dataclass(frozen=True)
class LengthSettings:
    shortest: int = 2


class Length(Stage):
    """Length of a clip's id; rejects short ones."""

    name = "length"
    batch_size = 4
    schema = pa.schema([field("length", pa.int64(), "characters of the id")])

    def __init__(
        self, settings: LengthSettings, at_setup: Callable[[], None] = lambda: None
    ) -> None:
        self.settings = settings
        self.at_setup = at_setup

    def setup(self) -> None:
        self.at_setup()

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [self._one(clip["clip_id"]) for clip in clips]

    def _one(self, clip_id: str) -> Outcome:
        if "bad" in clip_id:
            raise ValueError("no length")
        if len(clip_id) < self.settings.shortest:
            return Rejected("too short")
        return Passed({"length": len(clip_id)})


def run(wh: Warehouse, stage: Stage, **options: Any) -> tuple[StageCounts, str]:
    """Run one stage in a flow of its own; its counts, and the id of the flow run."""
    from prefect.runtime import flow_run

    @flow(name="stage-test")
    def once() -> tuple[StageCounts, str]:
        given: dict[str, Any] = {"workers": 2} | options
        parameters = BatchParameters(home=wh.home, **given)
        return run_stages(wh, [stage], fingerprints([stage]), parameters)[0], str(flow_run.id)

    return once()


def commits(wh: Warehouse) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in wh.home.glob("commits/**/*.parquet")}


def commits_of(wh: Warehouse, stage: str) -> list[str]:
    return [path for path in commits(wh) if f"/{stage}/" in path]
