"""Retakes, reference sounds and prompts over time in the toy, on clips that it was not trained on.

Timing is the F1 of onsets at 60 ms against the picture's impacts; material is what the spectrum
of a sound says (pipeline/procedural/audio.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from model.foley import FoleyControl
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import load_preset
from model.sampling.request import Reference, SoundRequest, Stretch
from model.types import Audio
from model.video_encoder import VideoEncoder
from pipeline.generation.asking import retake_of
from pipeline.generation.retake import spliced
from pipeline.procedural import ProceduralClip, render_audio, render_frames, sample_clip
from pipeline.procedural.audio import material_of

FIRST_SEED, CLIPS = 810_000_000, 32  # beyond those of any corpus and of all training
Figures = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Toy:
    """The shipped models, and clips with the tokens of their videos."""

    foley: FoleyControl
    clips: list[ProceduralClip]
    videos: list[Tensor]

    @classmethod
    def load(cls) -> Toy:
        """The toy, and CLIPS clips of 4 s."""
        preset = load_preset("toy")
        encoder = VideoEncoder.from_pretrained(preset)
        clips = [sample_clip(FIRST_SEED + i) for i in range(CLIPS)]
        videos = [encoder.encode(render_frames(clip)) for clip in clips]
        return cls(FoleyControl.from_pretrained(preset), clips, videos)

    def f1(self, sounds: Sequence[Audio], span: tuple[float, float] = (0.0, 4.0)) -> float:
        """F1 of onsets at 60 ms, of those within a span of seconds."""
        rate = self.foley.preset.sample_rate
        found = [detect_onsets(sound.mean(0), rate) for sound in sounds]
        truths = [np.array(clip.impacts) for clip in self.clips]
        inside = [[x[(x >= span[0]) & (x < span[1])] for x in times] for times in (truths, found)]
        return sync_score(inside[0], inside[1]).f1_60ms

    def false(self, sounds: Sequence[Audio], edges: tuple[float, float]) -> float:
        """Share of the onsets within 0.25 s of an edge that are no impact (0.1 s are allowed)."""
        rate, false = self.foley.preset.sample_rate, list[bool]()
        for clip, sound in zip(self.clips, sounds, strict=True):
            for onset in detect_onsets(sound.mean(0), rate):
                if min(abs(onset - edge) for edge in edges) < 0.25:
                    false.append(min(abs(onset - impact) for impact in clip.impacts) > 0.1)
        return float(np.mean(false))

    def requests(self, prompts: Sequence[str]) -> list[SoundRequest]:
        """A request for each clip."""
        rows = enumerate(zip(prompts, self.clips, self.videos, strict=True))
        return [SoundRequest(prompt, clip.seconds, i, v) for i, (prompt, clip, v) in rows]


def figure(name: str, value: float, unit: str = "F1", better: str = "higher") -> dict[str, Any]:
    """A figure, and which way is better."""
    return {"name": name, "value": round(float(value), 3), "unit": unit, "better": better}


def toy_retake() -> Figures:
    """A retake of 1 to 3 s of 4 against whole takes: timing inside, what differs outside, seams."""
    toy, span, spans = Toy.load(), (1.0, 3.0), ((1.0, 3.0),)
    rate = toy.foley.preset.sample_rate
    asked = toy.requests([clip.prompt for clip in toy.clips])
    first = toy.foley.generate(asked)
    whole = toy.foley.generate([replace(one, seed=one.seed + 1000) for one in asked])
    again = [
        replace(one, seed=one.seed + 1000, retake=retake_of(toy.foley, sound, spans))
        for one, sound in zip(asked, first, strict=True)
    ]
    parts = toy.foley.generate(again)
    made = [spliced(old, new, spans, rate) for old, new in zip(first, parts, strict=True)]
    yield figure("onset F1 at 60 ms within 1-3 s, whole takes", toy.f1(whole, span))
    yield figure("onset F1 at 60 ms within 1-3 s, retakes", toy.f1(made, span))
    outside = np.ones(first[0].shape[1], bool)
    outside[rate : 3 * rate] = False
    same = [np.array_equal(m[:, outside], f[:, outside]) for m, f in zip(made, first, strict=True)]
    yield figure(
        "sounds without a sample that differs outside 1-3 s", float(np.mean(same)), "share"
    )
    times = np.arange(len(outside)) / rate
    near = np.min([np.abs(times - edge) for edge in span], axis=0) < 0.25
    for name, sounds in (("whole takes", whole), ("retakes", made)):
        power = np.mean([sound[0] ** 2 for sound in sounds], axis=0)
        level = 10 * np.log10(power[near].mean() / power[~near].mean())
        what = f"level within 0.25 s of the edges against the rest, {name}"
        yield figure(what, level, "dB", "lower")
        yield figure(
            f"onsets near the edges without an impact, {name}", toy.false(sounds, span), "share"
        )


def toy_cues() -> Figures:
    """The material that is heard before and after a change of prompt at 2 s, with one video."""
    toy = Toy.load()
    rate = toy.foley.preset.sample_rate
    swaps = [clip.truth()["swap"] for clip in toy.clips]
    pairs = [(clip.material, swap["material"]) for clip, swap in zip(toy.clips, swaps, strict=True)]
    asked = [
        replace(one, stretches=(Stretch(0, one.prompt), Stretch(2.0, swap["prompt"])))
        for one, swap in zip(toy.requests([c.prompt for c in toy.clips]), swaps, strict=True)
    ]
    sounds = toy.foley.generate(asked)
    for place, name in enumerate(("first", "second")):
        halves = [sound[0, place * 2 * rate : (place + 1) * 2 * rate] for sound in sounds]
        right = [material_of(h, rate) == pair[place] for h, pair in zip(halves, pairs, strict=True)]
        yield figure(f"material of the {name} prompt in its half", float(np.mean(right)), "share")
    yield figure("onset F1 at 60 ms with two prompts", toy.f1(sounds))


def toy_reference() -> Figures:
    """Material of the reference and timing of the video, by strength; prompts name no material."""
    toy = Toy.load()
    rate = toy.foley.preset.sample_rate
    wanted = [clip.truth()["swap"]["material"] for clip in toy.clips]
    hits = [
        render_audio(
            replace(clip, impacts=(0.0, 0.5), strengths=(1.0, 0.8), material=m, seconds=1.0), rate
        )
        for clip, m in zip(toy.clips, wanted, strict=True)
    ]
    latents = [toy.foley.encode(np.tile(hit, 4)[None]) for hit in hits]
    plain = toy.requests([""] * CLIPS)
    for strength in (0.7, 0.8, 0.85, 0.9, 1.0):
        asked = [
            replace(request, reference=Reference(known, strength))
            for request, known in zip(plain, latents, strict=True)
        ]
        sounds = toy.foley.generate(asked)
        same = [material_of(s.mean(0), rate) == m for s, m in zip(sounds, wanted, strict=True)]
        yield figure(f"onset F1 at 60 ms, reference of strength {strength}", toy.f1(sounds))
        yield figure(
            f"material of the reference, strength {strength}", float(np.mean(same)), "share"
        )
