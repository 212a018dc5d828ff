"""Clips of unequal length: what padding would do to the frozen DiT, and what batches cost instead.

`padding` runs the toy's DiT on clips of 2 s beside clips of 4 s. `spread` counts batches of 12 over
100,000 clips whose lengths are as in Kinetics: six in ten of about 10 s, the rest from 2 s on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone
from model.presets.preset import load_preset
from model.presets.settings import WindowSettings
from model.sampling.canvas import Canvas
from model.sampling.diffusion import diffuse
from model.training.feature_batch import FeatureBatch, cut_to_fit, on_canvas
from pipeline.procedural import render_audio, sample_clip
from tests.benchmarks.figures import Figure, figure
from warehouse.datasets.epoch import Epoch

CLIPS, BATCH = 100_000, 12
TIMES = (0.2, 0.5, 0.8)  # noise levels


def padding() -> Iterator[Figure]:
    """By how much the velocity of a clip moves, as a share of its own size, for its neighbour."""
    preset = load_preset("toy")
    window = WindowSettings(seconds=4.0, overlap=1.0, canvas_seconds=6.0)
    roomy = preset.model_copy(update={"window": window})
    for name, chosen in (("", preset), ("on a canvas of 6 s, ", roomy)):
        backbone = Backbone.from_pretrained(chosen)
        kinds = ("padded", "as it is") if chosen is preset else ("as it is",)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for seed in range(8):
            pair = _pair(backbone, seed)
            for t in TIMES:
                for kind, moved in found.items():
                    moved.append(_moved(backbone, pair, t, padded=kind == "padded"))
        for kind, moved in found.items():
            name_of = f"velocity of a clip of 2 s beside one of 4 s, {name}{kind}"
            yield figure(name_of, round(float(np.mean(moved)), 4), "rms of its change over its own")


def _pair(backbone: Backbone, seed: int) -> FeatureBatch:
    """A clip of 2 s and one of 4 s, padded with zeros."""
    clips = [sample_clip(seed, 2.0), sample_clip(seed + 100, 4.0)]
    sounds = [torch.from_numpy(render_audio(clip))[None, None] for clip in clips]
    parts = [backbone.codec.encode(sound) for sound in sounds]
    counts = [mean.shape[-1] for mean, _ in parts]

    def padded(rows: list[Tensor]) -> Tensor:
        room = max(counts)
        return torch.cat([torch.nn.functional.pad(r, (0, room - r.shape[-1])) for r in rows])

    return FeatureBatch(
        video=torch.zeros(2, 32, 1, 1),
        frames=torch.tensor([16, 32]),
        latent_mean=padded([mean for mean, _ in parts]),
        latent_scale=padded([scale for _, scale in parts]),
        latents=torch.tensor(counts),
        text=backbone.encode_text([clip.prompt for clip in clips]),
        seconds=[clip.seconds for clip in clips],
    )


@torch.no_grad()
def _moved(backbone: Backbone, pair: FeatureBatch, t: float, padded: bool) -> float:
    """How far the first clip's velocity in a batch lies from that of the clip alone."""
    canvas = Canvas.of(backbone.preset)
    alone = _one(pair)
    if not padded:
        pair = on_canvas(cut_to_fit(pair, canvas), backbone)
        alone = on_canvas(cut_to_fit(alone, canvas), backbone)
    else:
        alone = cut_to_fit(alone, canvas)
    own = int(alone.latents[0])
    noise = torch.randn(pair.latent_mean.shape, generator=torch.Generator().manual_seed(0))
    with_it = _velocity(backbone, pair, noise, t)[0, :, :own]
    by_itself = _velocity(backbone, alone, noise[:1, :, : alone.latent_mean.shape[-1]], t)[0]
    by_itself = by_itself[:, :own]
    return float((with_it - by_itself).square().mean().sqrt() / by_itself.square().mean().sqrt())


def _one(batch: FeatureBatch) -> FeatureBatch:
    return FeatureBatch(**{name: value[:1] for name, value in vars(batch).items()})


def _velocity(backbone: Backbone, batch: FeatureBatch, noise: Tensor, t: float) -> Tensor:
    times = torch.full((len(noise),), t)
    noisy = diffuse(batch.latent_mean, times, noise, backbone.objective).noisy
    return backbone(
        noisy, times, **backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    )


def spread() -> Iterator[Figure]:
    """Clips and sound that are lost, and latents that are computed for nothing."""
    rng = np.random.default_rng(0)
    full = 10.0 + rng.normal(0, 0.03, CLIPS)
    seconds = np.where(rng.random(CLIPS) < 0.6, full, rng.uniform(2, 10, CLIPS))
    latents = np.array([Canvas.of(load_preset("paper")).latents(s) for s in seconds])
    groups = np.split(np.arange(CLIPS), range(64, CLIPS, 64))
    like = Epoch(BATCH, by="n_latents").batches(groups, 1, latents)
    cut = sum(int((latents[rows] - latents[rows].min()).sum()) for rows in like)
    yield _share("sound cut off, like lengths together", cut / latents.sum())
    yield _share("clips left out of an epoch, like lengths together", CLIPS % BATCH / CLIPS)
    _, counts = np.unique(latents, return_counts=True)
    yield _share("clips left out of an epoch, equal lengths only", (counts % BATCH).sum() / CLIPS)
    short = -(-counts // BATCH)
    yield _share("batches more, equal lengths and short last ones", short.sum() * BATCH / CLIPS - 1)
    yield _share(
        "latents that are padding, to the longest clip", 1 - latents.mean() / latents.max()
    )
    yield _share("latents that are silence, on a canvas of 47.6 s", 1 - latents.mean() / 1024)


def _share(name: str, value: float) -> Figure:
    return figure(name, round(float(value), 5), "share")
