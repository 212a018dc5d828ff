"""Claims about sound for worlds: what true, wrong and silent sounds are worth."""

from functools import cache

import numpy as np
import pytest

from model.types import Audio
from pipeline.evaluation.worlds import claims
from pipeline.world import WorldClip, counterfactual
from pipeline.world.sound import SAMPLE_RATE as RATE

CLIPS = [WorldClip(400_000_000 + i) for i in range(6)]


@cache
def _sounds() -> list[Audio]:
    return [clip.audio() for clip in CLIPS]


@cache
def _truths() -> list[claims.Truth]:
    return [clip.truth() for clip in CLIPS]


def _hits(made: list[Audio]) -> list[claims.Hit]:
    clips = zip(_truths(), _sounds(), made, strict=True)
    return [hit for clip in clips for hit in claims.hits_of(*clip, RATE)]


def test_true_sound_keeps_force_and_place_and_its_mirror_image_keeps_force_alone() -> None:
    mirrored = [sound[::-1] for sound in _sounds()]
    own, other = _hits(_sounds()), _hits(mirrored)
    assert claims.force(own) == pytest.approx(1) == claims.force(other)
    assert (claims.place(own) or 0) >= 0.95
    assert (claims.place(other) or 0) <= 0.05
    assert len(claims.off_the_middle(own)) == len(claims.off_the_middle(other)) > 10


def test_sound_of_another_clip_has_neither() -> None:
    rolled = [*_sounds()[1:], _sounds()[0]]
    other = _hits(rolled)
    assert abs(claims.force(other) or 1) < 0.4
    assert np.mean([hit.met for hit in other]) < 0.6


def test_a_hit_that_is_louder_is_louder() -> None:
    """By hand: three hits of known level, the second made as loud as the first."""
    truth = {
        "events": [
            {"kind": "hit", "heard": True, "visible": True, "time": t, "pan": pan}
            for t, pan in ((0.5, -0.9), (1.0, 0.9), (1.5, 0.25))
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
    found = [*claims.hits_of(truth, true, made, RATE)]
    assert claims.force(found) == pytest.approx(0.5)  # ranks 1 2 3 against 2 1 3
    assert len(claims.off_the_middle(found)) == 3
    assert claims.place(found) == pytest.approx(1 / 3)  # all on the left, of which one should be
    assert claims.met(found, visible=True) == 1.0
    assert claims.met(found, visible=False) is None
    unseen = [hit._replace(visible=False, met=at != 1) for at, hit in enumerate(found)]
    assert claims.met(unseen, visible=False) == pytest.approx(2 / 3)
    assert (claims.force(unseen), claims.place(unseen)) == (None, None)


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


def test_onsets_where_nothing_is_to_be_heard_are_counted() -> None:
    """Things are carried from 1 to 2 and from 3 to 4 s; in the latter one hits something."""
    acts = [("drop", 0), ("carry", 1), ("drop", 2), ("carry", 3)]
    truth = {
        "acts": [{"deed": deed, "begin": at, "end": at + 1.0} for deed, at in acts],
        "events": [{"kind": "hit", "act": act} for act in (0, 2, 3)] + [{"kind": "roll", "act": 1}],
    }
    assert claims.rests(truth) == [(1.3, 2.0)]
    noise = np.random.default_rng(0).standard_normal((2, RATE * 4)) * 1e-3
    sound = noise.astype(np.float32)
    for t in (0.5, 1.5, 1.8, 2.5, 3.5):
        at = round(t * RATE)
        sound[:, at : at + 480] += 0.5
    assert claims.onsets_in(claims.rests(truth), sound, RATE) == 2


def test_the_judge_tells_materials_that_it_has_not_heard() -> None:
    clips = [WorldClip(410_000_000 + i) for i in range(48)]
    sounds = [clip.audio() for clip in clips]
    labels = [clip.world.things[0].material for clip in clips]
    judge = claims.MaterialJudge(sounds[:40], labels[:40], RATE)
    assert np.mean([*map(judge, sounds[40:])] == np.array(labels[40:])) >= 0.85
    assert judge(np.zeros((2, RATE), np.float32)) is None
