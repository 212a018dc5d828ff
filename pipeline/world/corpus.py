"""A folder of worlds, written as that of procedural clips is, with pairs that differ in one act."""

from dataclasses import dataclass, replace

from pipeline.procedural.clip import rng_of
from pipeline.procedural.corpus import MISDUBBED, Corpus, CorpusClip, Rendered
from pipeline.procedural.degrading import KINDS
from pipeline.procedural.overlaying import OVERLAYS
from pipeline.world.clip import WorldClip

LONG = 16.0  # seconds of a long take
_TEST_EVERY = 7  # good clips; the share that is held out is the same under every policy


@dataclass(frozen=True)
class WorldCorpus(Corpus):
    """Worlds of a level: good clips, flawed ones, broken ones and counterfactual pairs.

    A pair is a world and the same one where, in one act, things are let go later or not at all;
    both are held out. A long take is of 16 s. A duplicate is a good clip once more, as another file
    with another size and frame rate.
    """

    level: int = 1
    pairs: int = 0
    long: int = 0
    duplicates: int = 0
    flaws = (*KINDS, *OVERLAYS, *[MISDUBBED] * 6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.duplicates > self.good:
            raise ValueError(f"{self.duplicates} duplicates of {self.good} clips")

    def clip(self, number: int) -> Rendered:
        """The world of a number."""
        return self._world(number).rendered()

    def clips(self) -> list[CorpusClip]:
        """The files, every seventh good one held out."""
        clips = [
            replace(clip, split="test" if i % _TEST_EVERY == _TEST_EVERY - 1 else "train")
            if i < self.good
            else clip
            for i, clip in enumerate(super().clips())
        ]
        for i in range(self.pairs):
            one = self._world(700_000 + i)
            for which, world in (("a", one), ("b", counterfactual(one))):
                pair = f"pair-{i:05d}"
                name = f"{pair}-{which}.mp4"
                clips.append(CorpusClip(name, world.rendered(), split="test", pair=pair))
        for i in range(self.long):
            take = WorldClip(self._world(600_000 + i).seed, self.level, LONG)
            clips.append(CorpusClip(f"long-{i:05d}.mp4", take.rendered(), split="train"))
        for i in range(self.duplicates):
            again = replace(self._world(i), duplicate=True).rendered()
            clips.append(CorpusClip(f"again-{i:05d}.mp4", again, split=clips[i].split))
        return clips

    def _world(self, number: int) -> WorldClip:
        return WorldClip(self.seed * 1_000_000 + number, self.level, self.seconds)


def counterfactual(clip: WorldClip) -> WorldClip:
    """The same world with an act in which nothing is let go, or .15 to .3 s later."""
    rng = rng_of(clip.seed, 40)
    loud = [i for i, act in enumerate(clip.world.acts) if act.deed != "carry"] or [0]
    act, later = int(rng.choice(loud)), round(float(rng.uniform(0.15, 0.3)), 3)
    return replace(clip, change=(act, later if rng.random() < 0.5 else None))
