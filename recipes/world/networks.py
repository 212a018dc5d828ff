"""The scorers and evaluation networks of the preset `world`, as the toy's are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.presets.preset import load_preset
from model.types import Audio, Frames, Times
from pipeline.procedural.degrading import KINDS
from pipeline.procedural.overlaying import OVERLAYS
from pipeline.world import LEVELS, WorldClip, sample_world
from pipeline.world.corpus import WorldCorpus
from pipeline.world.materials import NAMES
from recipes.toy.lessons import UNSEEN, Lesson, Lessons, at_times
from recipes.toy.networks import make_audiobox, make_classifiers, make_imagebind
from recipes.toy.policy import SEEDS, Subject
from recipes.toy.recipe import Figures, NetworksRecipe
from recipes.world.clips import FPS, Shard, picture_of, shards, sound_of
from warehouse.files import Json

_FIRST_UNSEEN = 540_000_000  # seeds of worlds that networks are measured on; no corpus has them


class Known:
    """A clip whose truth is known."""

    @property
    def truth(self) -> Json:
        """What happens in it, as a corpus's sidecar has it."""
        raise NotImplementedError

    @property
    def impacts(self) -> Sequence[float]:
        """When things hit and are heard by themselves, s."""
        return self.truth["impacts"]

    @property
    def material(self) -> str:
        """The one that is heard most: floors sound the less, and are under all."""
        truth, heard = self.truth, dict[str, float].fromkeys(NAMES, 0.0)
        for event in truth["events"]:
            first, second = event["materials"]  # the first may be the floor's, the second never
            if event["kind"] == "hit" and event["heard"]:
                heard[second] += event["speed"]
                heard[first] += event["speed"] * (first != truth["floor"])
        if any(heard.values()):
            return max(heard, key=heard.__getitem__)
        return sample_world(truth["seed"], truth["level"]).things[0].material


@dataclass(frozen=True)
class RenderedLesson(Known):
    """A clip that was rendered to be learned from."""

    shard: Shard
    number: int  # in the shard

    @property
    def truth(self) -> Json:
        """See Known."""
        return self.shard.truths()[self.number]

    def sound(self) -> Audio:
        """Mono [S] at 16 kHz."""
        return self.shard.sound(self.number).mean(0)

    def pictures(self, times: Times) -> Frames:
        """Pictures [T, 96, 96, 3]."""
        return at_times(self.shard.frames()[self.number], FPS, times)


@dataclass(frozen=True)
class UnseenLesson(Known):
    """A world that nothing learns from."""

    clip: WorldClip

    @property
    def truth(self) -> Json:
        """See Known."""
        return self.clip.truth()

    def sound(self) -> Audio:
        """Mono [S] at 16 kHz."""
        return sound_of(self.clip).mean(0)

    def pictures(self, times: Times) -> Frames:
        """Pictures [T, 96, 96, 3]."""
        return at_times(picture_of(self.clip), FPS, times)


def lessons(folder: Path) -> Lessons:
    """Worlds of all levels in turn."""

    def clips(count: int, first: int) -> Sequence[Lesson]:
        each = -(-count // len(LEVELS))
        if first >= UNSEEN:
            seeds = range(_FIRST_UNSEEN + first - UNSEEN, _FIRST_UNSEEN + first - UNSEEN + each)
            return [UnseenLesson(WorldClip(s, level)) for s in seeds for level in LEVELS][:count]
        of = shards(folder, [each] * len(LEVELS))
        return [RenderedLesson(shard, i) for shard in of for i in range(shard.count)][:count]

    kinds: tuple[str, ...] = (*KINDS, *OVERLAYS)
    shares = (0.1, 0.2, 0.3, 0.1, 0.15, 0.15)
    return Lessons(clips, NAMES, dict(zip(kinds, shares, strict=True)))


def make_networks(folder: Path, recipe: NetworksRecipe) -> None:
    """Write scorers and evaluation networks, which learn from worlds of all levels."""
    preset, figures = load_preset("world", weights=folder), Figures(folder)
    every = lessons(folder)
    make_imagebind(preset, recipe, figures, every)
    make_audiobox(preset, recipe, figures, every)
    make_classifiers(preset, recipe, figures, every)


def worlds(clips: int) -> Subject:
    """What the policy is measured on: so many true clips of each level."""
    of = {
        f"worlds.{seed}": WorldCorpus(clips, seed, bad=(), flawed=clips // 2, level=level)
        for level, seed in enumerate(SEEDS, 1)
    }
    return Subject("world", "simulated worlds", of)
