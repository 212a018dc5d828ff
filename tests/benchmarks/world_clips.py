"""Worlds that `world_training` trains bridges on: a picture each, and three sounds.

The sounds are the own one; one with a flaw, as `foley render --flawed` makes it; and the own one
under what is like speech or music. All are encoded, and scored as curation does it but for files
and codecs, which are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import duckdb
import numpy as np
import pyarrow as pa
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from model.backbone import Backbone
from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.presets.preset import Preset
from model.presets.settings import Pooling
from model.training.feature_batch import FeatureBatch
from model.types import Audio, Frames
from model.video_encoder import VideoEncoder
from pipeline.curation.gates import Policy
from pipeline.evaluation.ablation import pooled
from pipeline.procedural.corpus import CorpusClip
from pipeline.procedural.overlaying import OVERLAYS
from pipeline.scoring.imagebind import scaled
from pipeline.scoring.loudness import measure
from pipeline.world import WorldClip
from pipeline.world.corpus import WorldCorpus
from pipeline.world.picture import render_frames
from pipeline.world.sound import SAMPLE_RATE
from recipes.toy.lessons import at_times
from recipes.world.clips import FIRST_SEED, FPS, RATE, Shard, shards
from recipes.world.stereo import other_channel
from tests.benchmarks.world import FIRST_SEED as FIRST_UNSEEN
from tests.benchmarks.world import Made, Studio

START = 10_000  # number of the first clip: no shipped network has learnt from any of these
SECONDS = 4.0
_AT_ONCE = 10  # sounds of a batch
POOLINGS: tuple[Pooling, ...] = ("grid2", "frame")
Kind = Literal["own", "flawed", "overlaid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Pair = tuple[Tensor, Tensor]
Facts = dict[str, float]  # of a sound under its picture, by the columns of curation
T = TypeVar("T")


@dataclass(frozen=True)
class WorldFeatures:
    """Features of N clips."""

    prompts: list[str]
    materials: list[str]
    sounds: Audio  # the own ones [N, 2, S] at RATE
    tokens: Mapping[Pooling, Pair]  # as seen and mirrored, each [N, J, P, V]
    latents: Mapping[Kind, Pair]  # mean and scale, each [N, C, L]
    facts: Mapping[Kind, list[Facts]]


class Measuring:
    """The shipped networks of the preset, as features and curation use them."""

    def __init__(self, preset: Preset) -> None:
        self.backbone = Backbone.from_pretrained(preset)
        self.encoders: dict[Pooling, VideoEncoder] = {
            p: VideoEncoder.from_pretrained(pooled(preset, p)) for p in POOLINGS
        }
        self.imagebind = ImageBind.from_pretrained(preset)
        self.audiobox = Audiobox.from_pretrained(preset)

    def features(self, shard: Shard) -> WorldFeatures:
        """Features of the clips of a shard."""
        clips = [WorldClip(FIRST_SEED + shard.first + i, shard.level) for i in range(shard.count)]
        pictures = [*shard.frames()]
        sounds: dict[Kind, Audio] = {
            "own": shard.sounds(),
            "flawed": np.stack([_other(clip, flaw_of(clip)) for clip in clips]),
            "overlaid": np.stack([_other(c, OVERLAYS[c.seed % len(OVERLAYS)]) for c in clips]),
        }
        seen = [self._seen(picture) for picture in pictures]
        tokens: dict[Pooling, Pair] = {
            pooling: _watched(encoder, pictures) for pooling, encoder in self.encoders.items()
        }
        return WorldFeatures(
            [clip.world.prompt for clip in clips],
            [clip.world.things[0].material for clip in clips],
            sounds["own"],
            tokens,
            {kind: self._encoded(of) for kind, of in sounds.items()},
            {kind: self._facts(seen, of) for kind, of in sounds.items()},
        )

    def _seen(self, picture: Frames) -> Tensor:
        """ImageBind's embedding [D] of a picture [T, SIDE, SIDE, 3] at FPS."""
        shown = at_times(picture, FPS, self.imagebind.window_times(SECONDS, FPS))
        [found] = self.imagebind.watch([np.stack([scaled(p, self.imagebind.size) for p in shown])])
        return torch.from_numpy(found.features[0])

    def _encoded(self, sounds: Audio) -> Pair:
        parts = torch.from_numpy(sounds).split(_AT_ONCE)
        return _joined([self.backbone.codec.encode(part) for part in parts])

    def _facts(self, seen: Sequence[Tensor], sounds: Audio) -> list[Facts]:
        mono = [*sounds.mean(1)]
        parts = (mono[i : i + _AT_ONCE] for i in range(0, len(mono), _AT_ONCE))
        scores = [row for part in parts for row in self.audiobox.score(part)]
        heard = [torch.from_numpy(one.features[0]) for one in self.imagebind.hear(mono)]
        return [
            {
                "duration": SECONDS,
                "silent_share": measure(sound, RATE).silent_share,
                "imagebind": float(F.cosine_similarity(picture, embedded, dim=0)),
                "pq": score["pq"],
            }
            for picture, embedded, score, sound in zip(seen, heard, scores, mono, strict=True)
        ]


def flaw_of(clip: WorldClip) -> str:
    """The flaw of a clip's flawed sound: they come in turn, as in a corpus."""
    return WorldCorpus.flaws[clip.seed % len(WorldCorpus.flaws)]


def _other(clip: WorldClip, flaw: str) -> Audio:
    """The sound of a clip with a flaw, [2, S] at RATE."""
    sound = CorpusClip("", clip.rendered(), flaw=flaw).sound()
    return soxr.resample(sound.T, SAMPLE_RATE, RATE).T


def _watched(encoder: VideoEncoder, pictures: Iterable[Frames]) -> Pair:
    """Tokens [N, J, P, V] of pictures, as they are and mirrored."""
    both = [
        (encoder.encode(picture), encoder.encode(np.ascontiguousarray(picture[:, :, ::-1])))
        for picture in pictures
    ]
    return torch.stack([own for own, _ in both]), torch.stack([other for _, other in both])


def cached(path: Path, make: Callable[[], T]) -> T:
    """What `make` gives, from a file if it was made before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        torch.save(make(), unfinished)
        unfinished.replace(path)
    return torch.load(path, weights_only=False)  # our own file


def world_features(folder: Path, preset: Preset, count: int) -> WorldFeatures:
    """Features of so many clips of level 1; what is in the folder is not made again."""
    networks: list[Measuring] = []

    def made(shard: Shard) -> WorldFeatures:
        if not networks:
            networks.append(Measuring(preset))
        return networks[0].features(shard)

    parts = [
        cached(folder / "features" / f"{shard.path.name}-{shard.count}.pt", lambda s=shard: made(s))
        for shard in shards(folder, [count], START)
    ]
    return WorldFeatures(
        [prompt for part in parts for prompt in part.prompts],
        [material for part in parts for material in part.materials],
        np.concatenate([part.sounds for part in parts]),
        {p: _joined([part.tokens[p] for part in parts]) for p in POOLINGS},
        {kind: _joined([part.latents[kind] for part in parts]) for kind in KINDS},
        {kind: [row for part in parts for row in part.facts[kind]] for kind in KINDS},
    )


def _joined(pairs: Sequence[Pair]) -> Pair:
    first, second = zip(*pairs, strict=True)
    return torch.cat(first), torch.cat(second)


def passed(facts: Sequence[Facts], policy: Policy) -> list[int]:
    """Which of these clips pass all gates of a policy."""
    if not facts:
        return []
    gates = " and ".join(f"({gate.condition.sql()})" for gate in policy.gates)
    with duckdb.connect() as con:
        con.register("facts", pa.Table.from_pylist([{**f, "i": i} for i, f in enumerate(facts)]))
        return [i for (i,) in con.sql(f"select i from facts where {gates} order by i").fetchall()]


def batch_of(
    features: WorldFeatures,
    rows: Sequence[tuple[int, Kind]],
    text: Sequence[Tensor],
    pooling: Pooling,
) -> FeatureBatch:
    """Clips with a sound each, as they are and mirrored with their channels swapped.

    Args:
        features: Of all clips.
        rows: Which clips, and with which of their sounds.
        text: What the prompts of all clips are encoded as.
        pooling: Which tokens.
    """
    numbers = [number for number, _ in rows]
    own, mirrored = (of[numbers] for of in features.tokens[pooling])
    mean, scale = (
        torch.stack([features.latents[kind][i][number] for number, kind in rows]) for i in (0, 1)
    )
    video, count = torch.cat([own, mirrored]), 2 * len(rows)
    return FeatureBatch(
        video,
        torch.full((count,), video.shape[1]),
        torch.cat([mean, other_channel(mean)]),
        torch.cat([scale, other_channel(scale)]),
        torch.full((count,), mean.shape[-1]),
        [text[number] for number in numbers] * 2,
        [SECONDS] * count,
    )


def unseen(preset: Preset, count: int) -> tuple[Made, dict[Pooling, list[Tensor]]]:
    """Worlds that nothing was trained on, with their tokens by pooling."""
    made = Studio().watch([WorldClip(FIRST_UNSEEN + i) for i in range(count)])
    frame = VideoEncoder.from_pretrained(pooled(preset, "frame"))
    video = preset.video
    pictures = (render_frames(c.world, c.motion, video.fps, video.crop) for c in made.clips)
    return made, {"grid2": made.tokens, "frame": [frame.encode(picture) for picture in pictures]}


def held_out(backbone: Backbone, made: Made) -> FeatureBatch:
    """Worlds as a batch of validation, their video tokens those of the preset."""
    parts = torch.from_numpy(np.stack(made.true)).split(16)
    mean, scale = (torch.cat(of) for of in zip(*map(backbone.codec.encode, parts), strict=True))
    video, count = torch.stack(made.tokens), torch.ones(len(made.clips), dtype=torch.long)
    text = backbone.encode_text([clip.world.prompt for clip in made.clips])
    seconds = [clip.seconds for clip in made.clips]
    sizes = count * video.shape[1], count * mean.shape[-1]
    return FeatureBatch(video, sizes[0], mean, scale, sizes[1], text, seconds)
