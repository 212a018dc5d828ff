"""What the demo's report takes from the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.evaluation.demo_page import scores_of
from pipeline.report.view import score_groups
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.warehouse.toys import make_files, run_once
from warehouse import Warehouse, field


class SyncFacts(Stage):
    """DeSync of every other clip: the others are too short for it."""

    name = "sync"
    schema = pa.schema(
        [field("desync", pa.float32(), "DeSync"), field("sync_offset", pa.float32(), "offset")]
    )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        numbers = [int(clip["clip_id"][4:]) for clip in clips]
        return [Passed({"desync": None if n % 2 else n / 8, "sync_offset": None}) for n in numbers]


class TagFacts(Stage):
    """Music in all clips, and a speech share that no clip has."""

    name = "tags"
    schema = pa.schema([field(f"{what}_share", pa.float32(), what) for what in ("speech", "music")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed({"speech_share": None, "music_share": 0.25}) for _ in clips]


@pytest.mark.parametrize(
    ("stages", "shown"),
    [
        ([SyncFacts()], {"desync": ([0, 0.25, 0.5, 0.75, 1.0], 0.5)}),
        (
            [SyncFacts(), TagFacts()],
            {"desync": ([0, 0.25, 0.5, 0.75, 1.0], 0.5), "music_share": ([0.25] * 10, None)},
        ),
    ],
)
def test_scores_of_the_stages_that_ran_are_shown(
    stages: list[Stage], shown: dict[str, tuple[list[float], float | None]], tmp_path: Path
) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 10))
    run_once(wh, stages)
    dataset = select(
        wh,
        fingerprints(stages),
        Policy("p", 1, (Gate("synchrony", (Condition("desync", at_most=0.5),)),)),
    )
    found = scores_of(wh, dataset)
    assert {name: (sorted(score.values), score.maximum) for name, score in found.items()} == shown
    titles = {chart.title: chart.count for group in score_groups(found) for chart in group.charts}
    assert titles["Sound and picture apart, s (DeSync)"] == 5
