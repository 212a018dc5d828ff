"""Ablations: one command trains and scores all variants, and finds again what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.ablate import ablate
from flows.parameters import AblateParameters
from model.presets.preset import load_preset
from tests.pipeline.small import Curated, curate

pytestmark = [pytest.mark.usefixtures("api"), pytest.mark.slow]

FAST = ("sample.steps=2",)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("ablate"), load_preset("toy"))


def results(page: Path) -> dict[str, Any]:
    return json.loads((page.parent / "ablation.json").read_text())


def rows(small: Curated) -> list[str]:
    """Commits of what the ablations heard, of true and generated sounds."""
    commits = small.wh.home / "commits"
    stages = ("ablation_sound", "hear_panns")
    return sorted(str(path) for name in stages for path in (commits / name).rglob("*.parquet"))


@pytest.mark.parametrize(
    ("what", "variants", "limit"),
    [("pooling", ("frame", "grid2"), 3), ("curation", ("curated", "uncurated"), None)],
)
def test_variants_are_trained_and_scored_at_the_same_steps(
    small: Curated, what: Any, variants: tuple[str, ...], limit: int | None
) -> None:
    parameters = AblateParameters(
        home=small.wh.home,
        what=what,
        dataset=small.dataset.version,
        marks=(1, 2),
        limit=limit,
        settings=FAST,
    )
    page = ablate(parameters)
    found = results(page)
    assert [(mark["variant"], mark["steps"]) for mark in found["marks"]] == [
        (variant, steps) for variant in variants for steps in (1, 2)
    ]
    assert found["dataset"] == small.dataset.version
    held_out = limit or len(small.dataset.clip_ids("test"))
    assert found["held_out_clips"] == held_out
    assert all(mark["figures"]["kl_panns"]["clips"] == held_out for mark in found["marks"])
    trained = {name: found["clips"][name] for name in variants}
    if what == "pooling":
        subset = len(small.dataset.clip_ids("train", "ablation"))
        assert trained == dict.fromkeys(variants, subset)
    else:
        everything = len(small.wh.dataset("all.uncurated").clip_ids("train"))
        assert trained["curated"] <= trained["uncurated"] == everything
    before = (len(small.wh.records("checkpoints")), rows(small))
    assert before[1]
    assert ablate(parameters) == page
    assert results(page)["marks"] == found["marks"]
    assert (len(small.wh.records("checkpoints")), rows(small)) == before
