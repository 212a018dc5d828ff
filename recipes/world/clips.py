"""Worlds that networks are trained on, rendered once into FOLDER/clips.

Sound and picture are as the preset hears and sees them, without a codec in between, and of seeds
that no corpus uses. Every second picture has a second sound, of other materials than are seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from model.types import Audio, Frames
from pipeline.procedural.clip import rng_of
from pipeline.world import WorldClip
from pipeline.world.materials import NAMES, MaterialName
from pipeline.world.picture import render_frames
from pipeline.world.scene import World
from pipeline.world.sound import SAMPLE_RATE, render_sound

FIRST_SEED = 600_000_000  # a corpus of seed s uses clips s * 1,000,000 + i
FPS, SIDE, RATE = 24, 96, 16_000  # of the preset
SHARD = 50  # clips of a file
_Half = NDArray[np.float16]


@dataclass(frozen=True)
class Shard:
    """Clips of one level from a number on, in files of one name."""

    folder: Path
    level: int
    first: int
    count: int

    @property
    def path(self) -> Path:
        """Of the files, without what they end in."""
        return self.folder / f"L{self.level}-{self.first:06d}"

    @property
    def note(self) -> Path:
        """What happens in the clips; it is written last."""
        return self.path.with_suffix(".json")

    def truths(self) -> list[dict[str, Any]]:
        """What happens in each clip, with its prompt."""
        found: list[dict[str, Any]] = json.loads(self.note.read_text())
        return found

    def frames(self) -> Frames:
        """Pictures, uint8 [clips, T, SIDE, SIDE, 3], read as they are looked at."""
        return np.load(f"{self.path}-f.npy", mmap_mode="r")

    def sounds(self) -> Audio:
        """Sounds, float32 [clips, 2, S] at RATE."""
        return np.load(f"{self.path}-a.npy").astype(np.float32)

    def sound(self, number: int) -> Audio:
        """One of them, float32 [2, S]."""
        return np.load(f"{self.path}-a.npy", mmap_mode="r")[number].astype(np.float32)

    def other_sounds(self) -> Audio:
        """Sounds of other materials for every second clip, float32 [clips / 2, 2, S] at RATE."""
        return np.load(f"{self.path}-o.npy").astype(np.float32)


def sound_of(clip: WorldClip) -> Audio:
    """A clip's sound -> float32 [2, S] at RATE."""
    return _resampled(clip.audio())


def _resampled(sound: Audio) -> Audio:
    return soxr.resample(sound.T, SAMPLE_RATE, RATE).T


def of_other_materials(world: World) -> World:
    """The world, if its things were of other materials, drawn by its seed."""
    rng = rng_of(world.seed, 50)
    every: list[list[MaterialName]] = [
        [name for name in NAMES if name != thing.material] for thing in world.things
    ]
    chosen: list[MaterialName] = [names[int(rng.integers(len(names)))] for names in every]
    return world.of(chosen)


def write_shard(shard: Shard) -> None:
    """Render the clips, one after the other: the motion of the last few alone is remembered."""
    numbers = range(shard.first, shard.first + shard.count)
    rows = [_row(WorldClip(FIRST_SEED + number, shard.level)) for number in numbers]
    pictures, sounds, others, truths = zip(*rows, strict=True)
    np.save(f"{shard.path}-f.npy", np.stack(pictures))
    np.save(f"{shard.path}-a.npy", np.stack(sounds))
    np.save(f"{shard.path}-o.npy", np.stack([other for other in others if other is not None]))
    unfinished = shard.path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(truths))
    unfinished.replace(shard.note)


def _row(clip: WorldClip) -> tuple[Frames, _Half, _Half | None, dict[str, Any]]:
    """Picture, sound, perhaps another sound, and truth of a clip."""
    truth, other = clip.truth() | {"prompt": clip.world.prompt}, None
    if clip.seed % 2 == 0:
        world = of_other_materials(clip.world)
        other = _half(_resampled(render_sound(world, clip.motion)))
        truth["other_prompt"] = world.prompt
    return picture_of(clip), _half(sound_of(clip)), other, truth


def _half(sound: Audio) -> _Half:
    return sound.astype(np.float16)


def picture_of(clip: WorldClip) -> Frames:
    """A clip's picture -> uint8 [T, SIDE, SIDE, 3] at FPS."""
    return render_frames(clip.world, clip.motion, FPS, SIDE)


def shards(folder: Path, counts: Sequence[int], start: int = 0) -> list[Shard]:
    """Shards of clips of each level 1, 2, ... by its count; those not there are rendered.

    Numbers begin with `start`. Levels alternate, so that the first ones are of all.
    """
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    wanted = [
        Shard(clips, level, first, min(SHARD, start + count - first))
        for level, count in enumerate(counts, 1)
        for first in range(start, start + count, SHARD)
    ]
    wanted.sort(key=lambda shard: (shard.first, shard.level))
    missing = [shard for shard in wanted if not shard.note.exists()]
    spawn = get_context("spawn")  # a fork would copy a parent's threads
    with ProcessPoolExecutor(mp_context=spawn) as pool:
        for _ in tqdm(pool.map(write_shard, missing), "render worlds", len(missing)):
            pass
    return wanted
