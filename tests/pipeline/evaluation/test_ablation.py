"""Ablations: variants differ in one thing alone, and what they write can be read."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from model.presets.preset import ModelError, load_preset
from pipeline.curation.dataset_clips import dataset_clips
from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.ablation import (
    Mark,
    figure,
    pooled,
    score_mark,
    table,
    trained_to,
    uncurated,
    write_results,
)
from pipeline.procedural import Corpus
from pipeline.scoring.loudness import Silence
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Stage
from pipeline.training.train import train
from tests.pipeline.small import curate, procedural_clips, short_preset, work
from warehouse import Warehouse

MARKS = [
    Mark("frame", 10, 0.25, 20.0, 0.5, "a"),
    Mark("frame", 20, 0.5, 15.0, 0.4, "b"),
    Mark("grid2", 10, None, None, 0.55, "c"),
    Mark("grid2", 20, 0.75, 12.0, 0.45, "d"),
]


def test_variants_differ_in_pooling_alone_and_keep_a_checkpoint_at_each_mark() -> None:
    preset = load_preset("toy")
    frame, grid = (pooled(trained_to(preset, [10, 20]), pooling) for pooling in ("frame", "grid2"))
    assert (frame.video.tokens_per_frame, grid.video.tokens_per_frame) == (1, 4)
    assert frame.train == grid.train
    assert (frame.train.steps, frame.train.keep_steps) == (20, (10,))
    assert frame.model_copy(update={"video": grid.video}) == grid
    with pytest.raises(ModelError, match="no pooling 'grid3x': use frame"):
        pooled(preset, "grid3x")


def test_the_table_has_a_row_a_mark_and_the_figure_a_line_a_variant(tmp_path: Path) -> None:
    rows = table(MARKS).splitlines()
    assert rows[2] == "| 10 | 0.250 | 0.5000 | - | 0.5500 |"
    assert rows[3] == "| 20 | 0.500 | 0.4000 | 0.750 | 0.4500 |"
    page = write_results(tmp_path / "ablation", MARKS, {"clips": 7})
    assert table(MARKS) in page.read_text()
    assert json.loads((page.parent / "ablation.json").read_text())["clips"] == 7
    drawn = ET.fromstring(figure(MARKS))
    lines = [
        line.get("points", "").split()
        for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert [len(points) for points in lines] == [2, 2]
    (_, y_frame), (_, y_grid) = (points[1].split(",") for points in lines)
    assert float(y_grid) < float(y_frame)  # better is higher up


def test_variants_are_trained_on_the_ablation_subset_and_scored_once(tmp_path: Path) -> None:
    base = short_preset()
    small = curate(tmp_path, base)
    for pooling in ("frame", "grid2"):
        changed = pooled(trained_to(base, [1, 2]), pooling)
        stages = [*small.stages[:2], *StageGraph(changed).features]
        data = replace(small.data(changed, "ablation"), fingerprints=fingerprints(stages))
        work(small.wh, stages, data.fingerprints)
        done = train(data, lambda _: None)
        assert len(small.wh.features(done.record["features"])) == len(
            small.dataset.clip_ids("train", "ablation")
        )
        marks = [
            score_mark(data, id, pooling, step)
            for step, id in ((1, f"{done.id}-step000001"), (2, done.id))
        ]
        assert [(mark.variant, mark.steps) for mark in marks] == [(pooling, 1), (pooling, 2)]
        assert marks[0].v_loss != marks[1].v_loss
        again = score_mark(data, done.id, pooling, 2)
        assert again == marks[1]
    assert len(small.wh.records("evaluations")) == 4


def test_the_uncurated_set_has_what_the_policy_dropped_in_the_same_splits(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    corpus = Corpus(12, seconds=1.0, bad=("empty",), flawed=4)
    wh.ingest(procedural_clips(tmp_path / "clips", corpus))
    stages: list[Stage] = [Probe(), Silence()]
    fps = fingerprints(stages)
    work(wh, stages, fps)
    policy = Policy(
        "loud",
        1,
        (Gate("loud", (Condition("silent_share", below=0.5),)),),
        val=0.2,
        test=0.3,
        seed=4,
    )
    dataset = select(wh, fps, policy, "clips")
    found = uncurated(wh, dataset)
    decoded = {row["clip_id"]: row for row in found.members().to_pylist()}
    kept = {row["clip_id"]: row for row in dataset.members().to_pylist()}
    assert set(decoded) == set(wh.rows("silence", fps["silence"])["clip_id"].to_pylist())
    assert len(kept) < len(decoded)
    assert {clip: decoded[clip]["split"] for clip in kept} == {
        clip: row["split"] for clip, row in kept.items()
    }
    wh.publish()
    with dataset_clips(wh.home) as newest:
        assert (
            newest.dataset["version"] == dataset.version
        )  # one made for a comparison is not what comes next
