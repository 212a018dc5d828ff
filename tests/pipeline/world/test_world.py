"""A world's motion against the laws of physics, its sound and picture against its motion."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import mujoco
import numpy as np
import pytest

from model.metrics.onsets import detect_onsets, sync_score
from pipeline.world import LEVELS, World, WorldClip, counterfactual, sample_world
from pipeline.world.materials import MATERIALS, NAMES
from pipeline.world.motion import STEP, Motion, simulate
from pipeline.world.picture import render_frames
from pipeline.world.scene import Act, Camera, Shape, Start, Thing
from pipeline.world.sound import SAMPLE_RATE, render_sound

G = 9.81
AHEAD = Camera((0.0, -1.2, 0.4), (0.0, 0.0, 0.3), 0.0, 0.0, 0.0)


@lru_cache(maxsize=64)
def clip(seed: int, level: int) -> WorldClip:
    return WorldClip(seed, level, 3.0)


def drop(
    height: float,
    material: str = "rubber",
    shape: Shape = "ball",
    place: tuple[float, float] = (0.0, 0.0),
    size: float = 0.1,
) -> World:
    """One thing that falls from rest, its lowest point `height` above a stone floor."""
    thing = Thing(shape, material, size, (0.5, 0.5, 0.5))  # type: ignore[arg-type]
    start = Start((*place, height + size), (1.0, 0.0, 0.0, 0.0), (0, 0, 0), (0, 0, 0), 0.1)
    act = Act(0.0, 2.0, "drop", (start,))
    return World(1, 5, 2.0, "stone", (thing,), (act,), (AHEAD,))


@pytest.mark.parametrize("height", [0.2, 0.5, 1.1])
@pytest.mark.parametrize("material", ["rubber", "metal"])
def test_a_dropped_ball_hits_when_and_as_hard_as_it_must(height: float, material: str) -> None:
    motion = simulate(drop(height, material))
    first = motion.hits[0]
    assert first.time == pytest.approx(0.1 + np.sqrt(2 * height / G), abs=0.002)
    mass = MATERIALS[material].density * 4 / 3 * np.pi * 0.1**3  # type: ignore[index]
    fall = np.sqrt(2 * G * height)
    assert mass * fall < first.impulse < 2 * mass * fall  # neither dead nor more than it came with
    assert motion.masses()[0] == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "material"), [*[("ball", m) for m in NAMES], ("cube", "rubber"), ("hammer", "metal")]
)
def test_energy_never_grows(shape: Shape, material: str) -> None:
    """Also not in a contact, where stiff settings of MuJoCo's solver would give some."""
    world = drop(0.6, material, shape)
    tilted = replace(world.acts[0].starts[0], turn=(0.8, 0.36, 0.48, 0.0))
    motion = simulate(replace(world, acts=(replace(world.acts[0], starts=(tilted,)),)))
    model, data = motion.model, mujoco.MjData(motion.model)  # type: ignore[attr-defined]
    energy: list[float] = []
    for before, after in zip(motion.poses[210:-1:5], motion.poses[211::5], strict=False):
        velocity = np.zeros(model.nv)
        mujoco.mj_differentiatePos(model, velocity, STEP, before, after)  # type: ignore[attr-defined]
        data.qpos[:], data.qvel[:] = after, velocity
        mujoco.mj_forward(model, data)  # type: ignore[attr-defined]
        mujoco.mj_energyPos(model, data)  # type: ignore[attr-defined]
        mujoco.mj_energyVel(model, data)  # type: ignore[attr-defined]
        energy.append(float(data.energy.sum()))
    floor = 0.9 * motion.masses()[0] * G * 0.05
    assert max(energy) <= 1.01 * energy[0]
    assert min(energy) > floor


def test_a_lively_material_bounces_higher_than_a_dead_one() -> None:
    tops: dict[str, float] = {}
    for material in ("rubber", "stone"):
        motion = simulate(replace(drop(0.6, material), floor="metal"))
        gap = motion.hits[1].time - motion.hits[0].time  # a flight of this time has this height
        tops[material] = G * gap**2 / 8
    assert 0.05 < tops["stone"] < tops["rubber"] < 0.6


def test_impacts_are_what_a_detector_of_onsets_finds() -> None:
    clips = [clip(seed, 1) for seed in range(16)]
    impacts = [np.array(c.truth()["impacts"]) for c in clips]
    onsets = [detect_onsets(c.audio().mean(0), SAMPLE_RATE) for c in clips]
    assert sum(map(len, impacts)) > 3 * len(clips)
    assert sync_score(impacts, onsets).f1_60ms > 0.95


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of numbers without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def levels(motion: Motion, sound: np.ndarray) -> np.ndarray:
    """Energy of the 15 ms after each hit, by channel -> [hits, 2]."""
    ends = [round(hit.time * SAMPLE_RATE) for hit in motion.hits]
    return np.array([np.square(sound[:, at : at + 720]).sum(1) for at in ends])


def test_the_truth_of_a_hit_has_the_change_of_velocity() -> None:
    one = clip(0, 1)
    hits = [event for event in one.truth()["events"] if event["kind"] == "hit"]
    fall = [event["speed"] * one.motion.masses()[0] for event in hits]
    assert fall == pytest.approx([event["impulse"] for event in hits], rel=0.01)
    assert 1 < max(event["speed"] for event in hits) < 8  # of a drop from less than a metre


def test_a_harder_hit_is_louder_and_brighter() -> None:
    world = drop(0.3, "metal")
    loud: list[float] = []
    bright: list[float] = []
    heights = np.linspace(0.05, 1.2, 8)
    for height in heights:
        falls = drop(float(height), "metal")
        motion = simulate(falls)
        sound = render_sound(falls, motion)
        at = round(motion.hits[0].time * SAMPLE_RATE)
        power = np.square(np.abs(np.fft.rfft(sound[0, at : at + 2400])))
        loud.append(float(power.sum()))
        bright.append(float((power * np.arange(len(power))).sum() / power.sum()))
    assert rank_correlation(heights, np.array(loud)) > 0.9
    assert rank_correlation(heights, np.array(bright)) > 0.7
    assert world.prompt == "a metal ball dropped on a tiled floor"


def test_loudness_follows_impulse_within_a_clip() -> None:
    ranks: list[float] = []
    for seed in range(16):
        one = clip(seed, 1)
        heard = np.array([e["heard"] for e in one.truth()["events"] if e["kind"] == "hit"])
        energy = levels(one.motion, one.audio()).sum(1)[heard]
        impulses = np.array([hit.impulse for hit in one.motion.hits])[heard]
        if len(impulses) > 3:
            ranks.append(rank_correlation(impulses, energy))
    assert len(ranks) > 8
    assert np.mean(ranks) > 0.8


@pytest.mark.parametrize("x", [-0.4, 0.4])
def test_a_hit_is_heard_on_the_side_where_it_is_seen(x: float) -> None:
    world = drop(0.3, place=(x, 0.0))
    motion = simulate(world)
    left, right = levels(motion, render_sound(world, motion))[0]
    assert (right > 4 * left) if x > 0 else (left > 4 * right)
    frames = render_frames(world, motion, 10, 32).astype(float)
    moved = np.abs(frames[3] - frames[0]).sum((0, 2))  # by column
    assert (moved[16:].sum() > moved[:16].sum()) == (x > 0)


def test_a_far_hit_is_fainter() -> None:
    energy = [
        levels(m := simulate(w), render_sound(w, m))[0].sum()
        for w in (drop(0.3), drop(0.3, place=(0.0, 2.0)))
    ]
    assert energy[0] > 4 * energy[1]


@pytest.mark.parametrize("level", LEVELS)
def test_a_seed_is_the_world(level: int) -> None:
    one, again = clip(3, level), WorldClip(3, level, 3.0)
    assert one.world == sample_world(3, level, 3.0) == again.world
    assert one.world != clip(4, level).world
    assert (one.motion.poses == again.motion.poses).all()
    assert (one.audio() == again.audio()).all()
    assert json.dumps(one.truth()) == json.dumps(again.truth())
    assert one.audio().shape == (2, 3 * SAMPLE_RATE)
    assert 0.05 < np.abs(one.audio()).max() < 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("later", [None, 0.2])
def test_a_hit_removed_or_moved_leaves_the_rest_of_the_sound(
    level: int, later: float | None
) -> None:
    changed = False
    for seed in range(4):
        one = clip(seed, level)
        other = replace(one, change=(1, later))
        act = one.world.acts[1]
        apart = np.flatnonzero((one.audio() != other.audio()).any(0)) / SAMPLE_RATE
        if len(apart):
            changed = True
            heard = [h.time for c in (one, other) for h in c.motion.hits if h.act == 1]
            heard += [r.begin for c in (one, other) for r in c.motion.rubbings if r.act == 1]
            assert apart.min() >= min(heard) - 1 / SAMPLE_RATE
            assert apart.max() < act.end + 2.5  # what rings on
        elsewhere = [
            [(h.time, h.impulse) for h in c.motion.hits if h.act != 1] for c in (one, other)
        ]
        assert elsewhere[0] == elsewhere[1]
        assert later is not None or all(hit.act != 1 for hit in other.motion.hits)
    assert changed


def test_a_moved_hit_comes_that_much_later() -> None:
    world = drop(0.5)
    first, later = (simulate(w).hits[0].time for w in (world, world.moved(0, 0.2)))
    assert later - first == pytest.approx(0.2, abs=STEP)
    assert counterfactual(clip(0, 1)).change is not None


def test_a_carried_thing_moves_and_is_not_heard() -> None:
    seed = next(s for s in range(99) if sample_world(s, 3, 3.0).acts[0].deed == "carry")
    one = clip(seed, 3)
    act, poses = one.world.acts[0], one.motion.poses
    end = round(act.end / STEP) - 1
    assert abs(poses[end, 0] - poses[0, 0]) > 0.2
    assert not [hit for hit in one.motion.hits if hit.act == 0 and 0 in hit.pair]
    frames = render_frames(one.world, one.motion, 8, 32)
    assert (frames[0] != frames[3]).any()


def test_what_is_out_of_the_picture_is_marked_so() -> None:
    seed = next(s for s in range(99) if sample_world(s, 3, 3.0).acts[0].deed == "outside")
    hits = [e for e in clip(seed, 3).truth()["events"] if e["act"] == 0 and e["kind"] == "hit"]
    assert hits
    assert not any(hit["visible"] for hit in hits)
    assert all(abs(hit["pan"]) == 1 for hit in hits)
    seen = [e for s in range(4) for e in clip(s, 1).truth()["events"]]
    assert np.mean([event["visible"] for event in seen]) > 0.9


def test_rolling_is_told_from_sliding() -> None:
    kinds: dict[str, set[str]] = {"ball": set(), "cube": set()}
    shapes: tuple[tuple[Shape, float], ...] = (("ball", 15.0), ("cube", 0.0))
    for shape, spin in shapes:
        world = replace(drop(0.0, "glass", shape, (-0.4, 0.0)), floor="metal")
        start = replace(world.acts[0].starts[0], velocity=(1.5, 0, 0), spin=(0, spin, 0))
        motion = simulate(replace(world, acts=(replace(world.acts[0], starts=(start,)),)))
        for rubbing in motion.rubbings:
            sliding = rubbing.slip.mean() > 0.5 * rubbing.speed.mean()
            kinds[shape].add("slide" if sliding else "roll")
    assert kinds == {"ball": {"roll"}, "cube": {"slide"}}


def test_a_thing_of_each_material_looks_and_sounds_different() -> None:
    looks: list[np.ndarray] = []
    pitches: set[int] = set()
    for material in NAMES:
        thing = replace(drop(0.4).things[0], material=material, colour=MATERIALS[material].colour)
        world = replace(drop(0.4, material), things=(thing,))
        motion = simulate(world)
        looks.append(render_frames(world, motion, 1, 48)[0].astype(float))
        at = round(motion.hits[0].time * SAMPLE_RATE)
        pitches.add(
            int(np.abs(np.fft.rfft(render_sound(world, motion)[0, at : at + 4800])).argmax())
        )
    apart = [np.abs(a - b).max() for i, a in enumerate(looks) for b in looks[:i]]
    assert min(apart) > 40
    assert len(pitches) == len(NAMES)


@pytest.mark.parametrize("wrong", [(-1, 1, 4.0), (0, 4, 4.0), (0, 1, 0.5)])
def test_no_world_of_such_numbers(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="a world needs"):
        sample_world(*wrong)
