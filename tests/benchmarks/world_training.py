"""What bridges learn from worlds of one thing by pooling, by curation and by what else is heard.

`python -m tests.benchmarks world_training` trains bridges from nothing and on from the shipped one,
each with three seeds, measures each on worlds that nothing was trained on, and writes
docs/figures/world_training.json, which docs/toy.md shows. These trainings are far shorter than that
of the shipped bridge. What was rendered, computed, trained and measured is kept in a folder, from
which a stopped run of the same commit goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone
from model.foley import FoleyControl, build_bridge
from model.presets.preset import Preset, load_preset
from model.presets.settings import Pooling
from model.training.validation import validate
from model.types import Audio
from model.weights.files import BRIDGE_FILE
from model.weights.load import read_weights
from pipeline.curation.gates import Policy
from pipeline.curation.policy import load_policy
from pipeline.evaluation.ablation import pooled
from pipeline.evaluation.results import machine
from pipeline.evaluation.worlds.claims import MaterialJudge, force, place
from pipeline.generation.provenance import code_revision
from pipeline.media.hearing import hear
from pipeline.procedural.corpus import MISDUBBED
from pipeline.procedural.overlaying import OVERLAYS
from pipeline.world import WorldClip
from recipes.world.bridge import train_bridge
from recipes.world.clips import FIRST_SEED
from tests.benchmarks import claims
from tests.benchmarks.figures import Figure, figure
from tests.benchmarks.world import Made, requests, sounds_for
from tests.benchmarks.world_clips import (
    START,
    Kind,
    WorldFeatures,
    batch_of,
    cached,
    flaw_of,
    held_out,
    passed,
    unseen,
    world_features,
)
from warehouse.files import Json

FLAWED = 0.45  # share of the clips of a flawed corpus
_RESULTS = Path(__file__).parent.parent.parent / "docs" / "figures" / "world_training.json"
_JUDGED = 300  # clips that the judge of materials learns from
_DRAWS = 3  # noises that the shipped bridge makes sound from

Rows = list[tuple[int, Kind]]  # clips by number, each with one of its sounds


@dataclass(frozen=True)
class Course:
    """How a bridge is trained."""

    steps: int
    batch_size: int
    shipped: bool  # on from the shipped bridge, or from nothing

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the preset's training; no loss stops it, as in an ablation."""
        sizes = {"steps": self.steps, "batch_size": self.batch_size}
        return sizes | {"warmup_steps": max(1, self.steps // 10), "diverged_at": 1e9}

    def __str__(self) -> str:
        """As files are named."""
        return f"{self.steps} steps of {self.batch_size}"


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured."""

    clips: int = 200
    anew: Course = Course(500, 8, shipped=False)
    further: Course = Course(100, 16, shipped=True)
    seeds: tuple[int, ...] = (0, 1, 2)
    unseen: int = 48
    sampling_steps: int = 8  # those of the preset's `fast_steps`


class Variant(NamedTuple):
    """What a bridge is trained on."""

    rows: Rows
    pooling: Pooling = "grid2"
    anew: bool = False  # from nothing, or on from the shipped bridge


def variants(features: WorldFeatures, policy: Policy, seed: int) -> dict[str, Variant]:
    """What bridges are trained on, by name; the seed draws the random clips alone."""
    count = len(features.prompts)
    flawed = _flawed(count)
    corpus: Rows = [(i, "flawed" if i in flawed else "own") for i in range(count)]
    half: Rows = [(i, "overlaid" if i % 2 else "own") for i in range(count)]
    kept = _kept(features, corpus, policy)
    drawn = np.random.default_rng(seed).permutation(count)[: len(kept)]
    random = [corpus[i] for i in sorted(drawn.tolist())]
    own: Rows = [(i, "own") for i in range(count)]
    return {
        "anew, grid2 tokens": Variant(own, "grid2", anew=True),
        "anew, frame tokens": Variant(own, "frame", anew=True),
        "anew, flawed": Variant(corpus, anew=True),
        "anew, flawed, kept by the policy": Variant(kept, anew=True),
        "anew, flawed, as many at random": Variant(random, anew=True),
        "true": Variant(own),
        "flawed": Variant(corpus),
        "flawed, kept by the policy": Variant(kept),
        "flawed, as many at random": Variant(random),
        "half overlaid": Variant(half),
        "half overlaid, kept by the policy": Variant(_kept(features, half, policy)),
        "all overlaid": Variant([(i, "overlaid") for i in range(count)]),
    }


def _flawed(count: int) -> set[int]:
    """Numbers of the clips that are flawed in a flawed corpus."""
    return {*np.random.default_rng(0).permutation(count)[: round(FLAWED * count)].tolist()}


def _kept(features: WorldFeatures, rows: Rows, policy: Policy) -> Rows:
    found = passed([features.facts[kind][number] for number, kind in rows], policy)
    return [rows[i] for i in found]


def world_training() -> Iterator[Figure]:
    """Onset F1, side and material by what was trained on, for each seed."""
    commit = code_revision()
    folder = Path(tempfile.gettempdir()) / "foley-world-training" / str(commit)
    results: Json = {**measure(Plan(), folder), "machine": machine(), "commit": commit}
    _RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, found in results["bridges"].items():
        for what, values in found["figures"].items():
            line = f"{name}: {what}, mean of {len(values)} seeds"
            yield figure(line, round(float(np.mean(values)), 4), "") | {"better": "higher"}


def measure(
    plan: Plan, folder: Path, take: Callable[[str, int], bool] = lambda _, __: True
) -> dict[str, Any]:
    """Train and measure what `take` says of (name, seed), all of a seed before the next one's."""
    preset, policy = load_preset("world"), load_policy("world")
    features = world_features(folder, preset, plan.clips)
    bench = _Bench(plan, folder, preset, features)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in plan.seeds:
        for name, variant in variants(features, policy, seed).items():
            if take(name, seed):
                for what, value in bench.result(name, variant, seed).items():
                    found.setdefault(name, {}).setdefault(what, []).append(value)
    of = variants(features, policy, plan.seeds[0])
    return {
        "plan": asdict(plan),
        "curation": curation(features, policy),
        "bridges": {
            name: {"clips": len(of[name].rows), "figures": values} for name, values in found.items()
        },
        "shipped, by noise": bench.shipped(),
    }


def curation(features: WorldFeatures, policy: Policy) -> dict[str, list[int]]:
    """How many clips of each kind the policy keeps, and of how many."""
    count = len(features.prompts)
    flawed = _flawed(count)
    corpus: Rows = [(i, "flawed" if i in flawed else "own") for i in range(count)]
    sets: dict[str, Rows] = {
        "true": [row for row in corpus if row[1] == "own"],
        "mis-dubbed": [row for row in corpus if _kind(row) == MISDUBBED],
        "degraded": [
            r for r in corpus if r[1] == "flawed" and _kind(r) not in (MISDUBBED, *OVERLAYS)
        ],
        "under speech or music": [row for row in corpus if _kind(row) in OVERLAYS],
        "under speech or music, of the half": [(i, "overlaid") for i in range(1, count, 2)],
    }
    return {name: [len(_kept(features, rows, policy)), len(rows)] for name, rows in sets.items()}


def _kind(row: tuple[int, Kind]) -> str:
    number, kind = row
    return flaw_of(WorldClip(FIRST_SEED + START + number)) if kind == "flawed" else ""


class _Bench:
    """Trains bridges and measures them; what the folder has is not done again."""

    def __init__(self, plan: Plan, folder: Path, preset: Preset, features: WorldFeatures) -> None:
        self.plan, self.preset, self.features = plan, preset, features
        self.folder = folder / f"{plan.clips} clips"
        self.unseen: tuple[Made, Mapping[Pooling, list[Tensor]]] = cached(
            folder / f"unseen-{plan.unseen}.pt", lambda: unseen(preset, plan.unseen)
        )
        sounds, labels = features.sounds[:_JUDGED], features.materials[:_JUDGED]
        self.judge = MaterialJudge([*sounds], labels, preset.sample_rate)
        backbone = Backbone.from_pretrained(preset)
        self.text = backbone.encode_text(features.prompts)
        self.held_out = held_out(backbone, self.unseen[0])

    def result(self, name: str, variant: Variant, seed: int) -> dict[str, float]:
        """Figures of a bridge that is trained on this."""
        preset = pooled(self.preset, variant.pooling)
        course = self.plan.anew if variant.anew else self.plan.further
        path = self.folder / f"{name}, {course}, seed {seed}.safetensors"
        if not path.exists():
            self._train(preset, variant, course.settings | {"seed": seed}, path)
        return cached(
            path.with_suffix(".pt"),
            lambda: self._figures(FoleyControl.from_pretrained(preset, path), variant.pooling),
        )

    def shipped(self) -> list[dict[str, float]]:
        """Figures of the shipped bridge, by the noise that sounds are made from."""
        foley = FoleyControl.from_pretrained(self.preset)
        return [
            cached(
                self.folder.parent / f"shipped-{self.plan.unseen}-{draw}.pt",
                lambda d=draw: self._figures(foley, "grid2", d),
            )
            for draw in range(_DRAWS)
        ]

    def _train(
        self, preset: Preset, variant: Variant, settings: Mapping[str, Any], path: Path
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        backbone = Backbone.from_pretrained(preset)
        batch = batch_of(self.features, variant.rows, self.text, variant.pooling)
        torch.manual_seed(settings["seed"])
        bridge = build_bridge(backbone)
        if variant.anew:
            bridge.set_scale(batch.video.mean((0, 1, 2)), batch.video.std((0, 1, 2)))
        else:
            weights = read_weights(preset.weights / BRIDGE_FILE)
            bridge.load_state_dict({name: value.float() for name, value in weights.items()})
        unfinished = path.with_suffix(".tmp")
        train_bridge((backbone, bridge), batch, settings, unfinished)
        unfinished.replace(path)

    def _figures(self, foley: FoleyControl, pooling: Pooling, draw: int = 0) -> dict[str, float]:
        made, tokens = self.unseen[0], self.unseen[1][pooling]
        steps, rate = self.plan.sampling_steps, self.preset.sample_rate
        others = [*tokens[1:], tokens[0]]
        own, other = (
            sounds_for(foley, requests(made, of, draw=draw * 1_000_000), steps)
            for of in (tokens, others)
        )
        hits = claims.all_hits(made.truths, made.true, own, rate)
        batch = replace(self.held_out, video=torch.stack(tokens))
        losses = validate(foley.backbone, foley.bridge, [batch], seed=0)
        materials = [clip.world.things[0].material for clip in made.clips]
        found = {
            "F1": claims.f1(made.truths, own, rate),
            "F1, another's video": claims.f1(made.truths, other, rate),
            "v-loss": losses.true,
            "v-loss, another's video": losses.other,
            "side": place(hits) or 0.0,
            "force": force(hits) or 0.0,
            "material": claims.shares(self.judge, own, materials),
            "dB over the quietest tenth": rests(own, rate),
        }
        return {name: round(value, 4) for name, value in found.items()}


def rests(sounds: Sequence[Audio], rate: int) -> float:
    """Mean level over the quietest tenth, dB: what goes on between hits makes it small."""
    return float(np.mean([hear(sound, rate).snr_db for sound in sounds]))
