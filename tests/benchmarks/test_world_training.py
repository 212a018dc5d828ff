"""The trainings on worlds: what each is of, and that all runs and goes on, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.curation.policy import load_policy
from tests.benchmarks.world_clips import KINDS, Facts, WorldFeatures, batch_of, passed
from tests.benchmarks.world_training import Course, Plan, Rows, measure, rests, variants

GOOD: Facts = {"duration": 4.0, "silent_share": 0.5, "imagebind": 0.5, "pq": 7.0}
COUNT = 40


def _features() -> WorldFeatures:
    """Clips whose flawed sounds are a bad fit, every second one, and overlaid ones bad sound."""
    facts = {
        "own": [GOOD] * COUNT,
        "flawed": [GOOD | {"imagebind": 0.5 * (i % 2)} for i in range(COUNT)],
        "overlaid": [GOOD | {"pq": 1.0}] * COUNT,
    }
    number = torch.arange(COUNT, dtype=torch.float32)
    tokens = {
        p: (number.reshape(-1, 1, 1, 1), -number.reshape(-1, 1, 1, 1)) for p in ("grid2", "frame")
    }
    latents = {
        kind: (number.reshape(-1, 1, 1) + torch.tensor([[[100.0 * k], [200.0 * k]]]),) * 2
        for k, kind in enumerate(KINDS)
    }
    names = [str(i) for i in range(COUNT)]
    return WorldFeatures(names, names, np.zeros((COUNT, 2, 1), np.float32), tokens, latents, facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value"),
    [("duration", 0.5), ("silent_share", 0.99), ("imagebind", 0.1), ("pq", 3.0)],
)
def test_a_clip_passes_where_it_meets_every_gate(column: str, value: float) -> None:
    facts = [GOOD, GOOD | {column: value}, GOOD]
    assert passed(facts, load_policy("world")) == [0, 2]


def test_what_is_kept_is_compared_with_as_many_and_the_flawed_are_a_share() -> None:
    of = variants(_features(), load_policy("world"), 0)
    flawed = {row for row in of["flawed"].rows if row[1] == "flawed"}
    assert len(flawed) == 18  # .45 of 40
    kept, drawn = of["flawed, kept by the policy"].rows, of["flawed, as many at random"].rows
    dropped = {number for number, _ in flawed if number % 2 == 0}
    assert dropped
    assert {number for number, _ in kept} == {*range(COUNT)} - dropped
    assert len({*drawn}) == len(kept)
    assert {*drawn} <= {*of["flawed"].rows}
    assert drawn != variants(_features(), load_policy("world"), 1)["flawed, as many at random"].rows
    assert of["half overlaid, kept by the policy"].rows == [(i, "own") for i in range(0, COUNT, 2)]


def test_a_batch_has_each_clip_with_its_sound_and_its_mirror_image() -> None:
    """The sounds of kind k have 100 k on the left and 200 k on the right, more by the number."""
    rows: Rows = [(3, "own"), (5, "overlaid")]
    batch = batch_of(
        _features(), rows, [torch.full((1, 1), float(i)) for i in range(COUNT)], "grid2"
    )
    assert batch.video.flatten().tolist() == [3, 5, -3, -5]
    assert batch.latent_mean[..., 0].tolist() == [[3, 3], [205, 405], [3, 3], [405, 205]]
    assert [float(row) for row in batch.text] == [3, 5, 3, 5]


def test_what_goes_on_between_hits_is_heard() -> None:
    hits = np.zeros((2, 64_000), np.float32)
    hits[:, ::16_000] = 0.5
    noise = 0.01 * np.random.default_rng(0).standard_normal(hits.shape, np.float32)
    quiet, loud = (rests([(hits + noise * by).astype(np.float32)], 16_000) for by in (0.1, 1.0))
    assert quiet > loud + 10


@pytest.mark.slow
def test_all_of_it_runs_and_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    anew, further = (Course(2, 2, shipped) for shipped in (False, True))
    plan = Plan(6, anew, further, seeds=(0,), unseen=2, sampling_steps=2)

    def chosen(name: str, _: int) -> bool:
        return name in ("anew, frame tokens", "flawed")

    found = measure(plan, tmp_path, chosen)
    assert {*found["bridges"]} == {"anew, frame tokens", "flawed"}
    assert found["bridges"]["flawed"]["clips"] == 6
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert json.dumps(measure(plan, tmp_path, chosen)) == json.dumps(found)  # with NaN as NaN
    assert {path: path.stat().st_mtime_ns for path in made} == made
