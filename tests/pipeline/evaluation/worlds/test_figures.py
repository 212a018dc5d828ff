"""Figures of sounds for worlds: sounds and truths are made by hand, so every figure is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.presets.preset import load_preset
from model.types import Audio
from pipeline.evaluation.conditions import Generate, wav_bytes
from pipeline.evaluation.held_out import truths_of
from pipeline.evaluation.worlds.figures import WorldFigures
from pipeline.media import write_wav
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from pipeline.training.batches import DatasetFeatures
from warehouse import Warehouse

PRESET = load_preset("world")
RATE = PRESET.sample_rate
PITCH = {"metal": 2400.0, "wood": 300.0}
Hits = Sequence[tuple[float, float, float]]  # s, level, pan
HITS: Hits = ((0.3, 0.1, -0.8), (1.0, 0.4, 0.7), (1.6, 0.8, 0.0))
LATER: Hits = ((0.3, 0.1, -0.8), (1.25, 0.4, 0.7), (1.75, 0.8, 0.0))  # all of act 1


def sound(hits: Hits = HITS, material: str = "wood") -> Audio:
    """Clicks of a material, louder on the side where they are [2, 2 s]."""
    made = np.random.default_rng(0).standard_normal((2, 2 * RATE)) * 1e-4
    t = np.arange(round(0.1 * RATE)) / RATE
    click = np.sin(2 * np.pi * PITCH[material] * t) * np.exp(-t / 0.02)
    for at, level, pan in hits:
        start = round(at * RATE)
        for channel, side in enumerate((-1, 1)):
            made[channel, start : start + len(t)] += level * (1 + side * pan / 2) * click
    return made.astype(np.float32)


def truth(material: str = "wood", hits: Hits = HITS, **more: Any) -> dict[str, Any]:
    """Three hits in two acts, the last of them outside the picture; then something is carried."""
    events = [
        {"kind": "hit", "heard": True, "visible": at < 1.5, "time": at, "pan": pan, "act": act}
        for act, (at, _, pan) in zip((0, 1, 1), hits, strict=True)
    ]
    soft = {"kind": "hit", "heard": False, "visible": True, "time": 0.6, "pan": 0.9, "act": 0}
    events.append(soft)  # under what rings
    spans = ((0.0, 0.8, "drop"), (0.8, 1.8, "drop"))
    acts = [{"begin": begin, "end": end, "deed": deed} for begin, end, deed in spans]
    other = {"wood": "metal", "metal": "wood"}[material]
    impacts = [event["time"] for event in events if event["heard"]]
    known = {"impacts": impacts, "events": events, "acts": acts, "material": material}
    return known | {"swap": {"material": other, "prompt": f"a {other} ball"}, "change": None} | more


PAIR = truth(pair="p"), truth(hits=LATER, pair="p", change=[1, 0.2])
CARRIED = {"begin": 0.0, "end": 1.3, "deed": "carry"}
TRUTHS = {
    "one": truth(),
    "metal": truth("metal"),
    "pair-a": PAIR[0],
    "pair-b": PAIR[1],
    "carried": {"impacts": [], "events": [], "acts": [CARRIED], "change": None},
    "procedural": {"impacts": [0.3], "material": "wood", "swap": None},
}
OWN = {
    "one": sound(),
    "metal": sound(material="metal"),
    "pair-a": sound(),
    "pair-b": sound(LATER),
    "carried": sound(()),
    "procedural": sound(),
}
LEARNT = ("wood", "metal", "wood", "metal")
FLAWED = {f"flawed-{i}": (("wood", "metal"), ("metal", "wood"))[i % 2] for i in range(8)}


class Given(Stage):
    """Sounds as a checkpoint would have made them."""

    scope = "asked"
    schema = Generate.schema

    def __init__(self, condition: str, sounds: Mapping[str, Audio]) -> None:
        self.name, self.sounds = f"generate_{condition}", sounds

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        rows = [wav_bytes(self.sounds[clip["clip_id"]], RATE) for clip in clips]
        empty = dict.fromkeys(self.schema.names)
        return [Passed(empty | {"sound": row}) for row in rows]


class Kept:
    """A dataset of the clips: the first are held out."""

    version = "v"

    def clip_ids(self, split: str) -> list[str]:
        learnt = [f"learnt-{i}" for i in range(len(LEARNT))]
        return [*TRUTHS] if split == "test" else [*learnt, *FLAWED, "procedural"]


@pytest.fixture
def home(tmp_path: Path) -> Warehouse:
    """Clips with their own sound, and some to learn materials from, most of them mis-dubbed."""
    wh = Warehouse(tmp_path / "home")
    rows: list[dict[str, Any]] = []
    learnt = {f"learnt-{i}": (truth(name), name) for i, name in enumerate(LEARNT)}
    learnt |= {id: (truth(seen, flaw="misdubbed"), heard) for id, (seen, heard) in FLAWED.items()}
    sounds = OWN | {id: sound(material=name) for id, (_, name) in learnt.items()}
    for id, known in (TRUTHS | {id: known for id, (known, _) in learnt.items()}).items():
        path = tmp_path / f"{id}.wav"
        write_wav(path, sounds[id], RATE)
        rows.append({"clip_id": id, "path": str(path), "source": "s", "truth": json.dumps(known)})
    wh.ingest(pa.Table.from_pylist(rows))
    return wh


def figures(wh: Warehouse, condition: Any, sounds: Mapping[str, Audio]) -> dict[str, Any]:
    stage = Given(condition, OWN | dict(sounds))
    of = fingerprints([stage])
    todo = plan(wh, stage, of, [*TRUTHS])
    assert sum(run_batch(wh, stage, todo, batch).passed for batch in todo.batches) == len(TRUTHS)
    data = DatasetFeatures(wh, Kept(), PRESET, of)  # type: ignore[arg-type]
    return dict(WorldFigures(data, truths_of(wh, [*TRUTHS])).of(condition))


def test_true_sounds_have_all_of_it(home: Warehouse) -> None:
    assert figures(home, "true", {}) == {
        "force": (pytest.approx(1), 8),
        "place": (1.0, 8),
        "seen_hits_met": (1.0, 8),
        "unseen_hits_met": (1.0, 4),
        "cause_there": (1.0, 1),
        "cause_nowhere_else": (1.0, 1),
        "cause": (1.0, 1),
        "false_onsets": (0.0, 1),
        "material_accuracy": (1.0, 4),
        "material_judge_accuracy": (1.0, 4),
    }


def test_what_is_wrong_with_a_sound_is_its_figure_alone(home: Warehouse) -> None:
    hits = tuple((at, 0.05 / level, -pan) for at, level, pan in HITS[:2])
    made = {
        "one": sound(hits),  # the softest the loudest, on the wrong side, one unseen hit less
        "metal": sound(),  # of wood
        "pair-b": sound(((0.3, 0.1, -0.8), *HITS[1:])),  # as if nothing had changed
        "carried": sound(((0.5, 0.5, 0.0), (1.1, 0.5, 0.0), (1.5, 0.5, 0.0))),  # two in its rest
    }
    found = figures(home, "true", made)
    assert found["force"][0] < 0.9
    assert found["place"] == (pytest.approx(5 / 7), 7)  # a hit of the pair is not met
    assert found["seen_hits_met"] == (pytest.approx(7 / 8), 8)
    assert found["unseen_hits_met"] == (pytest.approx(2 / 4), 4)
    assert (found["cause_there"], found["cause_nowhere_else"]) == ((0.0, 1), (1.0, 1))
    assert found["cause"] == (0.0, 1)
    assert found["false_onsets"] == (pytest.approx(2 / 1.0), 1)  # from .3 s on
    assert found["material_accuracy"] == (0.75, 4)
    assert found["material_judge_accuracy"] == (1.0, 4)


@pytest.mark.parametrize(("condition", "share"), [("swap", 0.25), ("video", 0.75)])
def test_a_swapped_prompt_asks_for_another_material_and_none_for_what_is_seen(
    home: Warehouse, condition: str, share: float
) -> None:
    assert figures(home, condition, {"one": sound(material="metal")}) == {
        "material_accuracy": (share, 4)
    }


def test_sounds_for_other_videos_and_procedural_clips_have_none_of_it(home: Warehouse) -> None:
    assert figures(home, "other", {}) == {}
    data = DatasetFeatures(home, Kept(), PRESET, {})  # type: ignore[arg-type]
    plain = WorldFigures(data, {"procedural": TRUTHS["procedural"]})
    assert (plain.of("true"), plain.of("swap"), plain.pairs()) == ({}, {}, [])


def test_half_a_pair_is_none(home: Warehouse) -> None:
    data = DatasetFeatures(home, Kept(), PRESET, {})  # type: ignore[arg-type]
    known = {id: TRUTHS[id] for id in ("one", "pair-b")}
    assert WorldFigures(data, known).pairs() == []
    assert WorldFigures(replace(data), TRUTHS).pairs() == [("pair-a", "pair-b")]
