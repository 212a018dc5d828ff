"""Claims about sound for worlds: what true, wrong and silent sounds are worth."""

from functools import cache

import numpy as np
import pytest

from model.types import Audio
from pipeline.world import WorldClip, counterfactual
from pipeline.world.sound import SAMPLE_RATE as RATE
from tests.benchmarks import claims

CLIPS = [WorldClip(400_000_000 + i) for i in range(6)]


@cache
def _sounds() -> list[Audio]:
    return [clip.audio() for clip in CLIPS]


@cache
def _truths() -> list[claims.Truth]:
    return [clip.truth() for clip in CLIPS]


def test_true_sound_keeps_force_and_place_and_its_mirror_image_keeps_force_alone() -> None:
    mirrored = [sound[::-1] for sound in _sounds()]
    own = claims.at_hits(_truths(), _sounds(), _sounds(), RATE)
    other = claims.at_hits(_truths(), _sounds(), mirrored, RATE)
    assert own.force == pytest.approx(1) == other.force
    assert own.place >= 0.95
    assert other.place <= 0.05
    assert own.off_the_middle == other.off_the_middle > 10


def test_sound_of_another_clip_has_neither() -> None:
    rolled = [*_sounds()[1:], _sounds()[0]]
    other = claims.at_hits(_truths(), _sounds(), rolled, RATE)
    assert abs(other.force) < 0.4
    assert other.met.mean() < 0.6


def test_a_hit_that_is_louder_is_louder() -> None:
    """By hand: three hits of known level, the second made as loud as the first."""
    truth = {
        "events": [
            {"kind": "hit", "heard": True, "visible": True, "time": t, "pan": pan}
            for t, pan in ((0.5, -0.9), (1.0, 0.9), (1.5, 0.1))
        ],
        "impacts": [0.5, 1.0, 1.5],
    }
    true, made = (np.zeros((2, RATE * 2), np.float32) for _ in range(2))
    click = np.hanning(960)
    for t, level, of in ((0.5, 0.1, 0.1), (1.0, 0.3, 0.05), (1.5, 0.9, 0.9)):
        at = round(t * RATE)
        true[:, at : at + 960] += level * click
        made[0, at : at + 960] += of * click * 1.1
        made[1, at : at + 960] += of * click
    found = claims.at_hits([truth], [true], [made], RATE)
    assert found.force == pytest.approx(0.5)  # ranks 1 2 3 against 2 1 3
    assert found.off_the_middle == 2
    assert found.place == 0.5  # all on the left, of which one should be


def test_what_differs_in_a_pair_is_heard_there_and_nowhere_else() -> None:
    one = next(c for c in CLIPS if counterfactual(c).world.acts != c.world.acts)
    other = counterfactual(one)
    assert other.change is not None
    act = other.world.acts[other.change[0]]
    truths, sounds = (one.truth(), other.truth()), (one.audio(), other.audio())
    span = act.begin, act.end
    assert claims.follows_cause(truths, sounds, span, RATE) == (True, True)
    assert claims.follows_cause(truths, (sounds[0], sounds[0]), span, RATE) == (False, True)
    elsewhere = next(c for c in CLIPS if c is not one).audio()
    assert not claims.follows_cause(truths, (sounds[0], elsewhere), span, RATE)[1]


def test_onsets_where_nothing_is_to_be_heard_are_counted_by_the_second() -> None:
    noise = np.random.default_rng(0).standard_normal((2, RATE * 4)) * 1e-3
    sound = noise.astype(np.float32)
    for t in (0.5, 1.5, 2.5, 3.0):
        at = round(t * RATE)
        sound[:, at : at + 480] += 0.5
    stretches = [[(1.0, 2.0), (2.2, 2.8), (3.2, 3.6)]]
    a_second, seconds = claims.false_onsets(stretches, [sound], RATE)
    assert (round(a_second, 6), round(seconds, 6)) == (1.0, 2.0)


def test_the_interval_holds_the_value_and_is_of_clips() -> None:
    value = claims.f1(_truths(), _sounds(), RATE)
    low, high = claims.interval(_truths(), _sounds(), RATE)
    assert value > 0.9
    assert low <= value <= high
    half = [sound * (i % 2) for i, sound in enumerate(_sounds())]
    low, high = claims.interval(_truths(), half, RATE)
    assert high - low > 0.2


def test_the_judge_tells_materials_that_it_has_not_heard() -> None:
    clips = [WorldClip(410_000_000 + i) for i in range(48)]
    sounds = [clip.audio() for clip in clips]
    labels = [clip.world.things[0].material for clip in clips]
    judge = claims.MaterialJudge(sounds[:40], labels[:40], RATE)
    assert claims.shares(judge, sounds[40:], labels[40:]) >= 0.85
    assert judge(np.zeros((2, RATE), np.float32)) is None
