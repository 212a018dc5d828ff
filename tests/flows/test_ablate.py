"""The ablation of curation: one command trains and scores both, and finds again what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.ablate import ablate
from flows.parameters import AblateParameters
from model.presets.preset import load_preset
from tests.pipeline.small import curate

pytestmark = [pytest.mark.usefixtures("api"), pytest.mark.slow]


def test_curated_and_uncurated_are_trained_and_scored_at_the_same_steps(tmp_path: Path) -> None:
    small = curate(tmp_path, load_preset("toy"))
    parameters = AblateParameters(
        home=small.wh.home, what="curation", dataset=small.dataset.version, marks=(1, 2)
    )
    page = ablate(parameters)
    found = json.loads((page.parent / "ablation.json").read_text())
    assert [(mark["variant"], mark["steps"]) for mark in found["marks"]] == [
        (variant, steps) for variant in ("curated", "uncurated") for steps in (1, 2)
    ]
    assert found["dataset"] == small.dataset.version
    assert found["held_out_clips"] == len(small.dataset.clip_ids("test"))
    assert (
        found["clips"]["curated"]
        <= found["clips"]["uncurated"]
        == len(small.wh.dataset("all.uncurated").clip_ids("train"))
    )
    before = len(small.wh.records("checkpoints"))
    assert ablate(parameters) == page
    assert json.loads((page.parent / "ablation.json").read_text())["marks"] == found["marks"]
    assert len(small.wh.records("checkpoints")) == before
