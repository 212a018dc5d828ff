"""Losses on held-out clips, with their own video, with none and with another clip's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.sampling.diffusion import diffuse
from model.training.feature_batch import FeatureBatch, on_canvas
from model.training.loss import clip_losses, stratified_times
from model.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Losses:
    """Validation v-loss with the clips' own video, none, another clip's (NaN where none is)."""

    true: float
    null: float
    other: float


@torch.no_grad()
def validate(
    backbone: Backbone,
    bridge: Bridge,
    batches: Sequence[FeatureBatch],
    seed: int,
    processes: Processes = ALONE,
) -> Losses:
    """v-loss with true, null and another clip's video, on the same times and noise for the three.

    A batch is asked for when it is needed, so that `batches` may read it then. Where several
    processes validate, each takes its share of the batches: a batch's losses are those of one
    process, and so is their sum, to the bit.
    """
    totals = torch.zeros(len(batches), 4, dtype=torch.float64)  # three losses, and the clips
    for index in processes.share(len(batches)):
        batch = batches[index]
        beside = batches[index - 1] if len(batch.video) == 1 else batch
        others = _video_of_others(batch, beside)
        placed = on_canvas(batch, backbone).to(backbone.device)
        losses = _batch_losses(backbone, bridge, placed, others, seed + index)
        totals[index, :3], totals[index, 3] = losses * len(batch.video), len(batch.video)
    sums = processes.sum(totals.to(backbone.device)).cpu().sum(0)
    true, null, other = (sums[:3] / sums[3]).tolist()
    return Losses(true, null, other if sums[3] > 1 else torch.nan)


def _video_of_others(batch: FeatureBatch, beside: FeatureBatch) -> tuple[Tensor, Tensor]:
    """Tokens and frames of the clip before each one: the last of `beside`, for a batch of one."""
    if len(batch.video) > 1:
        return batch.video.roll(1, 0), batch.frames.roll(1, 0)
    most = batch.video.shape[1]
    return beside.video[-1:, :most], beside.frames[-1:].clamp(max=most)


def _batch_losses(
    backbone: Backbone,
    bridge: Bridge,
    batch: FeatureBatch,
    others: tuple[Tensor, Tensor],
    seed: int,
) -> Tensor:
    """v-losses [3] of a batch: with its own video, with none and with others'."""
    generator = torch.Generator().manual_seed(seed)
    size, device = len(batch.video), backbone.device
    t = stratified_times(size, generator).to(device)
    noise = torch.randn(batch.latent_mean.shape, generator=generator).to(device)
    latents = diffuse(batch.latent_mean, t, noise, backbone.objective)
    true = VideoBatch(batch.video, batch.frames)
    null = replace(true, seen=torch.zeros(size, dtype=torch.bool, device=device))
    other = VideoBatch(others[0].to(device), others[1].to(device))
    losses: list[float] = []
    for video in (true, null, other):
        with bridge.conditioned_on(video, noise.shape[-1]):
            losses.append(float(clip_losses(backbone, batch, latents)[0]))
    return torch.tensor(losses, dtype=torch.float64)
