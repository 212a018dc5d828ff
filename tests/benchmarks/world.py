"""What the preset `world` is worth: its goals, measured on worlds that nothing was trained on.

`python -m tests.benchmarks world`, in some minutes on two cores, writes docs/figures/world.json,
which docs/toy.md shows. Pictures and sounds are rendered apart, without a codec in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from model.foley import FoleyControl
from model.presets.preset import load_preset
from model.sampling.request import SoundRequest
from model.types import Audio
from pipeline.evaluation.results import machine
from pipeline.evaluation.worlds.claims import (
    MaterialJudge,
    follows_cause,
    force,
    met,
    off_the_middle,
    onsets_in,
    place,
    rests,
)
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import sample_settings
from pipeline.generation.provenance import code_revision
from pipeline.world import LEVELS, WorldClip, counterfactual
from pipeline.world.materials import NAMES, MaterialName
from pipeline.world.picture import render_frames
from pipeline.world.sound import SAMPLE_RATE
from tests.benchmarks import claims
from tests.benchmarks.figures import Figure, figure

FIRST_SEED, CLIPS, PAIRS = 500_000_000, 48, 32  # of no corpus; a level
JUDGED = 300  # clips of one thing that the judge of materials learns from
_RESULTS = Path(__file__).parent.parent.parent / "docs" / "figures" / "world.json"


class Made(NamedTuple):
    """Clips of a level, what is true of them, and their tokens."""

    clips: list[WorldClip]
    truths: list[dict[str, Any]]
    tokens: list[Tensor]
    true: list[Audio]  # [2, S] at the preset's rate


class Studio:
    """Renders worlds, and makes sound for them."""

    def __init__(self, preset: str = "world", weights: Path | None = None) -> None:
        self.preset = load_preset(preset, weights=weights)
        self.generator = SoundGenerator(self.preset, device="cpu")
        self.rate = self.preset.sample_rate

    def watch(self, clips: Sequence[WorldClip]) -> Made:
        """Clips with their truth, tokens and true sound."""
        video, encoder = self.preset.video, self.generator.encoder
        pictures = (render_frames(c.world, c.motion, video.fps, video.crop) for c in clips)
        tokens = [encoder.encode(picture) for picture in pictures]
        return Made([*clips], [c.truth() for c in clips], tokens, [self.true(c) for c in clips])

    def true(self, clip: WorldClip) -> Audio:
        """A clip's own sound."""
        return soxr.resample(clip.audio().T, SAMPLE_RATE, self.rate).T

    def make(
        self, made: Made, tokens: Sequence[Tensor | None], prompts: Sequence[str] | None = None
    ) -> list[Audio]:
        """Sounds for tokens; the prompts are the clips' own where none are given."""
        return sounds_for(self.generator.foley, requests(made, tokens, prompts))

    def through_vae(self, made: Made) -> list[Audio]:
        """The true sounds, encoded and decoded."""
        backbone = self.generator.foley.backbone
        latents = backbone.codec.encode(torch.from_numpy(np.stack(made.true)))[0]
        return [*backbone.codec.decode(latents).numpy()]


def requests(
    made: Made, tokens: Sequence[Tensor | None], prompts: Sequence[str] | None = None, draw: int = 0
) -> list[SoundRequest]:
    """What to make for clips; `draw` is added to the seeds, which are the clips' own."""
    prompts = prompts or [clip.world.prompt for clip in made.clips]
    return [
        SoundRequest(prompt, clip.seconds, (clip.seed + draw) % 2**31, video)
        for prompt, clip, video in zip(prompts, made.clips, tokens, strict=True)
    ]


def sounds_for(
    foley: FoleyControl, asked: Sequence[SoundRequest], steps: int | None = None
) -> list[Audio]:
    """Sounds [2, S], in so many sampling steps, or in the preset's."""
    settings = sample_settings(foley.preset, steps=steps)
    return [
        sound if len(sound) == 2 else np.repeat(sound, 2, 0)
        for i in range(0, len(asked), 16)
        for sound in foley.generate(asked[i : i + 16], settings)
    ]


def world() -> Iterator[Figure]:
    """All goals."""
    results = measure(Studio())
    results |= {"machine": machine(), "commit": code_revision()}
    _RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for level, found in results["time"].items():
        for name, value in found["f1_60ms"].items():
            line = f"level {level}, onset F1 at 60 ms, {name}"
            yield figure(line, value["value"], "F1") | {"better": "higher"}
    for name in ("force", "place", "material", "cause", "rest", "unseen"):
        for what, value in results[name].items():
            yield figure(f"{name}, {what}", value, "") | {"better": "higher"}


def measure(studio: Studio, clips: int = CLIPS, pairs: int = PAIRS) -> dict[str, Any]:
    """Every claim, on so many clips of each level and so many pairs."""
    made = {
        level: studio.watch([WorldClip(FIRST_SEED + i, level) for i in range(clips)])
        for level in LEVELS
    }
    own = {level: studio.make(of, of.tokens) for level, of in made.items()}
    decoded = {level: studio.through_vae(of) for level, of in made.items()}
    hits = {level: claims.all_hits(of.truths, of.true, own[level], studio.rate)
            for level, of in made.items()}  # fmt: skip
    kept = claims.all_hits(made[1].truths, made[1].true, decoded[1], studio.rate)
    rest = [rests(truth) for truth in made[3].truths]
    false = sum(onsets_in(at, of, studio.rate) for at, of in zip(rest, own[3], strict=True))
    seconds = sum(end - begin for at in rest for begin, end in at)
    return {
        "time": {
            str(level): _time(studio, of, own[level], decoded[level]) for level, of in made.items()
        },
        "force": {f"level {level}": _rounded(force(of)) for level, of in hits.items()},
        "place": {f"level {level}": _rounded(place(of)) for level, of in hits.items()}
        | {f"hits of level {level}": len(off_the_middle(of)) for level, of in hits.items()}
        | {"of true sounds, decoded": _rounded(place(kept))},
        "material": _material(studio, made[1], own[1], decoded[1]),
        "cause": _cause(studio, pairs),
        "rest": {"onsets a second": round(false / seconds, 4), "seconds": round(seconds, 1)},
        "unseen": {
            "hits in the picture that are met": _rounded(met(hits[3], visible=True)),
            "hits outside of it that are met": _rounded(met(hits[3], visible=False)),
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _time(
    studio: Studio, made: Made, own: Sequence[Audio], decoded: Sequence[Audio]
) -> dict[str, Any]:
    others = [*made.tokens[1:], made.tokens[0]]
    sounds = {
        "own video": own,
        "another's video": studio.make(made, others),
        "no video": studio.make(made, [None] * len(made.clips)),
        "true sound, decoded": decoded,
        "true sound": made.true,
    }
    return {
        "clips": len(made.clips),
        "impacts_a_clip": round(float(np.mean([len(t["impacts"]) for t in made.truths])), 2),
        "f1_60ms": {
            name: {
                "value": round(claims.f1(made.truths, of, studio.rate), 4),
                "interval": [round(x, 4) for x in claims.interval(made.truths, of, studio.rate)],
            }
            for name, of in sounds.items()
        },
    }


def _material(
    studio: Studio, made: Made, own: Sequence[Audio], decoded: Sequence[Audio]
) -> dict[str, Any]:
    """Of clips of one thing: what material is heard, by their own prompt, another and none."""
    learnt = [WorldClip(FIRST_SEED + 1_000_000 + i) for i in range(JUDGED)]
    labels = [clip.world.things[0].material for clip in learnt]
    judge = MaterialJudge([studio.true(clip) for clip in learnt], labels, studio.rate)
    seen = [clip.world.things[0].material for clip in made.clips]
    wanted: list[MaterialName] = [
        NAMES[(NAMES.index(name) + 1 + i % 5) % 6] for i, name in enumerate(seen)
    ]
    swaps = zip(made.clips, wanted, strict=True)
    prompts = [clip.world.of([material]).prompt for clip, material in swaps]
    swapped = studio.make(made, made.tokens, prompts)
    unasked = studio.make(made, made.tokens, [""] * len(prompts))
    return {
        "of true sounds the judge tells": round(claims.shares(judge, made.true, seen), 4),
        "of true sounds, decoded": round(claims.shares(judge, decoded, seen), 4),
        "by the own prompt": round(claims.shares(judge, own, seen), 4),
        "by a swapped prompt, the new one": round(claims.shares(judge, swapped, wanted), 4),
        "F1 by a swapped prompt": round(claims.f1(made.truths, swapped, studio.rate), 4),
        "by no prompt, the visible one": round(claims.shares(judge, unasked, seen), 4),
        "F1 by no prompt": round(claims.f1(made.truths, unasked, studio.rate), 4),
    }


def _cause(studio: Studio, pairs: int) -> dict[str, Any]:
    """Of pairs of level 1 that differ in one act."""
    ones = [WorldClip(FIRST_SEED + 2_000_000 + i) for i in range(pairs)]
    others = [counterfactual(one) for one in ones]
    a, b = studio.watch(ones), studio.watch(others)
    found = [
        follows_cause(truths, sounds, _changed(other), studio.rate)
        for truths, sounds, other in zip(
            zip(a.truths, b.truths, strict=True),
            zip(studio.make(a, a.tokens), studio.make(b, b.tokens), strict=True),
            others,
            strict=True,
        )
    ]
    there, alone = np.array(found).T
    return {
        "pairs": pairs,
        "heard in the act": round(float(there.mean()), 4),
        "nowhere else": round(float(alone.mean()), 4),
        "both": round(float((there & alone).mean()), 4),
    }


def _changed(clip: WorldClip) -> tuple[float, float]:
    """From when to when the act lasts in which a clip differs."""
    assert clip.change is not None
    act = clip.world.acts[clip.change[0]]
    return act.begin, act.end
