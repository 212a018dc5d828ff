"""What the shipped weights of the preset `world` are worth, on worlds that nobody trained on."""

from __future__ import annotations

import pytest

from pipeline.evaluation.worlds.claims import force, place
from pipeline.world import WorldClip
from tests.benchmarks import claims
from tests.benchmarks.world import FIRST_SEED, Made, Studio

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
def made(studio: Studio) -> Made:
    return studio.watch([WorldClip(FIRST_SEED + i) for i in range(10)])


def test_sound_keeps_time_force_and_place_of_what_is_seen(studio: Studio, made: Made) -> None:
    """Bounds are under what these ten clips gave (.77, .34, .71, .95), by the interval's half."""
    own = studio.make(made, made.tokens)
    other = studio.make(made, [*made.tokens[1:], made.tokens[0]])
    assert claims.f1(made.truths, own, studio.rate) > 0.65
    assert claims.f1(made.truths, other, studio.rate) < 0.4
    hits = claims.all_hits(made.truths, made.true, own, studio.rate)
    assert (force(hits) or 0) > 0.6
    assert (place(hits) or 0) > 0.84


def test_the_autoencoder_keeps_time_and_place(studio: Studio, made: Made) -> None:
    """They are .95 and 1 of these ten clips."""
    decoded = studio.through_vae(made)
    assert claims.f1(made.truths, decoded, studio.rate) > 0.9
    assert (place(claims.all_hits(made.truths, made.true, decoded, studio.rate)) or 0) > 0.97
