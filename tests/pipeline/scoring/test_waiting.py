"""Which clips come to which stage: of a silent one no sound is scored, and of a new prompt a text.

With real stages on a real file; what comes is asked of the engine's plan.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from model.presets.preset import load_preset
from model.presets.settings import TaggerSettings
from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.curation.stage_graph import StageGraph
from pipeline.stages.engine import plan, run_batch
from tests.pipeline.media.samples import write_sample
from tests.pipeline.scoring.test_sync_and_tags import with_tagger
from warehouse import Warehouse, query


def test_silence_keeps_a_sound_from_being_scored_and_a_prompt_is_read_when_it_changes(
    tmp_path: Path,
) -> None:
    wh, path = Warehouse(tmp_path / "home"), tmp_path / "a.mp4"
    write_sample(path, [i / 10 for i in range(20)], np.zeros(96_000, np.float32))
    clip = {"clip_id": "a", "path": str(path), "source": "s", "prompt": "rain"}
    graph = StageGraph(with_tagger(load_preset("toy"), TaggerSettings()))
    stages, fingerprints = {stage.name: stage for stage in graph.stages}, graph.fingerprints

    def run(*names: str) -> None:
        for name in names:
            work = plan(wh, stages[name], fingerprints)
            for batch in work.batches:
                run_batch(wh, stages[name], work, batch)

    def come(*names: str) -> set[str]:
        return {name for name in names if plan(wh, stages[name], fingerprints).todo}

    wh.ingest(pa.Table.from_pylist([clip]))
    run("probe", "silence", "text_embeddings")
    assert come(*stages) == {"video_tokens"}
    wh.ingest(pa.Table.from_pylist([clip | {"prompt": "hail"}]))
    assert come("probe", "text_embeddings") == {"text_embeddings"}

    # features are for what a dataset keeps, and those of other clips are not waited for
    short = Gate("short", (Condition("duration", below=1.0),))
    select(wh, {"probe": fingerprints["probe"]}, Policy("none", 1, (short,)))
    wh.publish()
    features = "('video_tokens', 'text_embeddings')"
    reached = query(wh.home, f"select reached from funnel where stage in {features}")
    assert reached["reached"].to_pylist() == [0, 0]
