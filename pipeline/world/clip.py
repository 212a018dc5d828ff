"""A clip of a world, as a corpus writes it, with its truth."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from math import inf
from typing import TypeVar

from model.types import Audio, Frames
from pipeline.procedural.clip import rng_of
from pipeline.procedural.corpus import Rendered
from pipeline.world.materials import NAMES
from pipeline.world.motion import Motion, simulate
from pipeline.world.picture import is_visible, render_frames
from pipeline.world.scene import Floats, World, sample_world
from pipeline.world.sound import SAMPLE_RATE, hear, heard_hits, materials_of, render_sound
from warehouse.files import Json

T = TypeVar("T")
_RATES = (24.0, 25.0, 30.0, 24000 / 1001, 30000 / 1001)  # frames a second of real footage
_SIZES = (96, 112, 128)  # pixels a side


@dataclass(frozen=True)
class WorldClip:
    """A clip of a seed and a level; a counterfactual one differs in what one of its acts does."""

    seed: int  # of the world
    level: int = 1  # see `LEVELS`
    seconds: float = 4.0  # its length
    # the number of the act that differs, and by how many seconds it comes later; None is never.
    # None at large for the world as it is.
    change: tuple[int, float | None] | None = None
    # whether this is the world in another file, of another size and frame rate
    duplicate: bool = False

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._choice(_RATES, 30)

    @property
    def side(self) -> int:
        """Pixels a side."""
        return self._choice(_SIZES, 31)

    def _choice(self, choices: tuple[T, ...], stream: int) -> T:
        """A choice by the seed; a duplicate's is the next one."""
        i = int(rng_of(self.seed, stream).integers(len(choices)))
        return choices[(i + self.duplicate) % len(choices)]

    @property
    def world(self) -> World:
        """What it shows."""
        return _world(self)

    @property
    def motion(self) -> Motion:
        """How it moves."""
        return _motion(self)

    def frames(self) -> Frames:
        """The picture -> uint8 [T, side, side, 3]."""
        return render_frames(self.world, self.motion, self.fps, self.side)

    def audio(self) -> Audio:
        """The sound -> float32 [2, n]."""
        return _sound(self)

    def another(self) -> Rendered:
        """The next clip in which a thing of this material is thrown."""
        others = (WorldClip(seed, self.level, self.seconds) for seed in count(self.seed + 1))
        label = self.world.things[0].material
        found = next(other for other in others if other.world.things[0].material == label)
        return found.rendered()

    def rendered(self) -> Rendered:
        """As a corpus writes it; its label is the material of what is thrown."""
        label, make = self.world.things[0].material, (self.frames, self.audio, self.truth)
        about = self.seed, self.seconds, self.world.prompt, label
        return Rendered(*about, *make, self.another, self.fps, SAMPLE_RATE)

    def truth(self) -> Json:
        """What happens, as JSON values.

        `impacts` are the times of hits that can be heard by themselves; `events` are all hits, and
        the rolling and sliding, with pan -1 left .. 1 right and place in metres; the speed of a hit
        is by how much it changes that of the lighter thing, m/s. Of a world of one thing also its
        `material`, and the prompt of a `swap` to another.
        """
        heard = heard_hits(self.motion, self.audio())
        hits = [
            self._event("hit", hit.time, hit.pair, hit.place)
            | {"impulse": round(hit.impulse, 4), "speed": round(hit.speed(self.motion.masses()), 3)}
            | {"heard": is_heard, "act": hit.act}
            for hit, is_heard in zip(self.motion.hits, heard, strict=True)
        ]
        rubbings = [
            self._event(rubbing.kind, rubbing.begin, rubbing.pair, rubbing.place)
            | {"speed": round(float(rubbing.speed.mean()), 3), "act": rubbing.act}
            for rubbing in self.motion.rubbings
        ]
        return {
            "impacts": [hit["time"] for hit in hits if hit["heard"]],
            "events": sorted(hits + rubbings, key=lambda event: event["time"]),
            "acts": [
                {"begin": round(act.begin, 4), "end": round(act.end, 4), "deed": act.deed}
                for act in self.world.acts
            ],
            **self._one_thing(),
            "level": self.level,
            "floor": self.world.floor,
            "seed": self.seed,
            "seconds": self.seconds,
            "change": self.change and list(self.change),
            "duplicate": self.duplicate,
        }

    def _one_thing(self) -> Json:
        """Its material, and another with the prompt for it; nothing where there are several."""
        thing, *others = self.world.things
        if others:
            return {}
        material = thing.material
        other = NAMES[(NAMES.index(material) + 1 + self.seed % (len(NAMES) - 1)) % len(NAMES)]
        prompt = self.world.of([other]).prompt
        return {"material": material, "swap": {"material": other, "prompt": prompt}}

    def _event(self, kind: str, t: float, pair: tuple[int, int], place: Floats) -> Json:
        return {
            "time": round(t, 4),
            "kind": kind,
            "materials": materials_of(self.world, pair),  # of the floor, or of the one thing, first
            "place": [round(float(x), 3) for x in place],
            "pan": round(hear(self.world, place, t).pan, 3),
            "visible": is_visible(self.world, self.motion, t, pair),
        }


# of the last few clips alone: a corpus may have any number of them
@lru_cache(4)
def _world(clip: WorldClip) -> World:
    world = sample_world(clip.seed, clip.level, clip.seconds)
    if clip.change is None:
        return world
    act, later = clip.change
    return world.moved(act, inf if later is None else later)


@lru_cache(4)
def _motion(clip: WorldClip) -> Motion:
    return simulate(_world(clip))


@lru_cache(4)
def _sound(clip: WorldClip) -> Audio:
    return render_sound(_world(clip), _motion(clip))
