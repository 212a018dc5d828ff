"""Training of the bridge by v-prediction, from cached features only (paper sections 3.3 and 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge
from model.presets import TrainSettings


@dataclass(frozen=True)
class FeatureBatch:
    """Cached features of B clips: what training reads instead of video, audio and text."""

    video: Tensor  # [B, J, P, V], padded to the longest clip
    frames: Tensor  # [B] effective frames that each clip has
    latent_mean: Tensor  # [B, C, L], padded likewise
    latent_scale: Tensor  # [B, C, L]
    latents: Tensor  # [B] latent frames that each clip has
    text: Sequence[Tensor]  # each [N, D]
    seconds: Sequence[float]


@dataclass(frozen=True)
class Losses:
    """Validation v-loss with the clips' own video, with none, and with another clip's."""

    true: float
    null: float
    other: float


@dataclass(frozen=True)
class Progress:
    """One step of training; `validation` where it was measured."""

    step: int
    loss: float
    validation: Losses | None


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Times [size], uniform in 0..1, one from each of `size` equal intervals: less noise in the loss."""
    return (torch.arange(size) + torch.rand(size, generator=generator)) / size


def diffuse(clean: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [B, C, L] at times t [B] -> noisy latents and the velocity to predict (alpha noise - sigma clean)."""
    angle = t[:, None, None] * (math.pi / 2)
    alpha, sigma = angle.cos(), angle.sin()
    return alpha * clean + sigma * noise, alpha * noise - sigma * clean


def warmup_cosine(optimiser: torch.optim.Optimizer, warmup: int, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate that rises linearly over `warmup` steps and falls to zero as half a cosine."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def v_loss(
    backbone: Backbone, batch: FeatureBatch, clean: Tensor, t: Tensor, noise: Tensor, text_drop: float = 0.0
) -> Tensor:
    """Mean squared error of the predicted velocity over the latents that clips have (call it inside `watching`)."""
    noisy, velocity = diffuse(clean, t, noise)
    inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    error = (backbone(noisy, t, cfg_dropout_prob=text_drop, **inputs) - velocity).square().mean(1)  # [B, L]
    present = torch.arange(error.shape[-1], device=error.device) < batch.latents[:, None]
    return error[present].mean()


@torch.no_grad()
def validate(backbone: Backbone, bridge: Bridge, batches: Sequence[FeatureBatch], seed: int) -> Losses:
    """v-loss with true, null and another clip's video, on the same times and noise for the three."""
    totals = [0.0, 0.0, 0.0]
    clips = 0
    for index, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(seed + index)
        size = len(batch.video)
        t = stratified_times(size, generator)
        noise = torch.randn(batch.latent_mean.shape, generator=generator)
        everyone = torch.ones(size, dtype=torch.bool)
        true, other = (batch.video, batch.frames), (batch.video.roll(1, 0), batch.frames.roll(1, 0))
        for i, ((video, frames), seen) in enumerate(((true, everyone), (true, ~everyone), (other, everyone))):
            with bridge.watching(video, noise.shape[-1], frames=frames, seen=seen):
                totals[i] += float(v_loss(backbone, batch, batch.latent_mean, t, noise)) * size
        clips += size
    true, null, other = (total / clips for total in totals)
    return Losses(true, null, other)


def train_bridge(
    backbone: Backbone,
    bridge: Bridge,
    batches: Iterator[FeatureBatch],
    validation: Sequence[FeatureBatch],
    settings: TrainSettings,
    report: Callable[[Progress], None],
) -> None:
    """Train the inserted bridge in place; everything else stays frozen.

    A share `video_drop` of clips sees the null token and a share `text_drop` no text, so that guidance can tell what
    each adds ("token-drop regularization with 10% probability", section 4.1).
    """
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(
        bridge.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
    )
    schedule = warmup_cosine(optimiser, settings.warmup_steps, settings.steps)
    for step in range(settings.steps):
        batch = next(batches)
        size = len(batch.video)
        t = stratified_times(size, generator)[torch.randperm(size, generator=generator)]
        clean = batch.latent_mean + batch.latent_scale * torch.randn(batch.latent_mean.shape, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        seen = torch.rand(size, generator=generator) >= settings.video_drop
        with bridge.watching(batch.video, clean.shape[-1], frames=batch.frames, seen=seen):
            loss = v_loss(backbone, batch, clean, t, noise, settings.text_drop)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # inside: with checkpointing the layers run again here
        nn.utils.clip_grad_norm_(bridge.parameters(), settings.clip_norm)
        optimiser.step()
        schedule.step()
        last = step + 1 == settings.steps
        due = last or (step + 1) % settings.validate_every == 0
        measured = validate(backbone, bridge, validation, settings.seed) if due and validation else None
        report(Progress(step + 1, float(loss), measured))
