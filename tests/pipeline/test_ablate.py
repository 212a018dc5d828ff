"""The pooling ablation: variants differ in their tokens alone, and what it writes can be read."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from model.presets import ModelError, load_preset
from pipeline.ablate import Mark, figure, score_mark, table, variant, write_results
from pipeline.curation import feature_stages
from pipeline.engine import fingerprints
from pipeline.train import train
from tests.pipeline.small import curate, short_preset, work

MARKS = [
    Mark("frame", 10, 0.25, 20.0, 0.5, "a"),
    Mark("frame", 20, 0.5, 15.0, 0.4, "b"),
    Mark("grid4", 10, None, None, 0.55, "c"),
    Mark("grid4", 20, 0.75, 12.0, 0.45, "d"),
]


def test_variants_differ_in_pooling_alone_and_keep_a_checkpoint_at_each_mark() -> None:
    preset = load_preset("toy")
    frame, grid = (variant(preset, pooling, [10, 20]) for pooling in ("frame", "grid4"))
    assert (frame.video.tokens_per_frame, grid.video.tokens_per_frame) == (1, 16)
    assert frame.train == grid.train
    assert (frame.train.steps, frame.train.keep_steps) == (20, (10,))
    assert frame.model_copy(update={"video": grid.video}) == grid
    with pytest.raises(ModelError, match="no pooling 'grid3x': use frame"):
        variant(preset, "grid3x", [1])


def test_the_table_has_a_row_a_mark_and_the_figure_a_line_a_variant(tmp_path: Path) -> None:
    rows = table(MARKS).splitlines()
    assert rows[2] == "| 10 | 0.250 | 0.5000 | - | 0.5500 |"
    assert rows[3] == "| 20 | 0.500 | 0.4000 | 0.750 | 0.4500 |"
    page = write_results(tmp_path / "ablation", MARKS, {"clips": 7})
    assert table(MARKS) in page.read_text()
    assert json.loads((page.parent / "ablation.json").read_text())["clips"] == 7
    drawn = ET.fromstring(figure(MARKS))
    lines = [line.get("points", "").split() for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [2, 2]
    (_, y_frame), (_, y_grid) = (points[1].split(",") for points in lines)
    assert float(y_grid) < float(y_frame)  # better is higher up


def test_variants_are_trained_on_the_ablation_subset_and_scored_once(tmp_path: Path) -> None:
    base = short_preset()
    small = curate(tmp_path, base)
    for pooling in ("frame", "grid2"):
        changed = variant(base, pooling, [1, 2])
        stages = [*small.stages[:2], *feature_stages(changed)]
        fps = fingerprints(stages)
        work(small.wh, stages, fps)
        done = train(small.wh, small.dataset, fps, changed, lambda _: None, subset="ablation")
        assert len(small.wh.features(done.record["features"])) == len(small.dataset.clip_ids("train", "ablation"))
        marks = [
            score_mark(small.wh, small.dataset, fps, changed, id, step)
            for step, id in ((1, f"{done.id}-step000001"), (2, done.id))
        ]
        assert [(mark.pooling, mark.steps) for mark in marks] == [(pooling, 1), (pooling, 2)]
        assert marks[0].v_loss != marks[1].v_loss
        again = score_mark(small.wh, small.dataset, fps, changed, done.id, 2)
        assert again == marks[1]
    assert len(small.wh.records("evaluations")) == 4
