"""A training loop written from the paper, to compare with: clips of different lengths, preferences.

It shares with the product the frozen DiT, the layers of the bridge and the numbers that are drawn
(from a generator seeded by seed, step and micro-batch); everything else is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import build_bridge
from model.presets.preset import Preset
from model.presets.settings import TrainSettings
from model.training.feature_batch import FeatureBatch
from model.training.trainer import Trainer, _mix

LATENTS = (50, 31, 12, 44)  # of the clips of a batch: no two alike
FRAMES = (16, 10, 4, 14)
HELD_OUT = ((1,), (0, 1, 2), (3, 1), (0,))  # clips of batches
RECIPE = {
    "steps": 20, "batch_size": 4, "warmup_steps": 3, "learning_rate": 3e-3, "weight_decay": 0.2,
    "video_drop": 0.3, "text_drop": 0.3, "clip_norm": 0.05, "ema_decay": 0.6, "micro_batches": 2,
    "joint_drop": 0.2, "token_drop": 0.4,
}  # fmt: skip


def make_batch(backbone: Backbone, seed: int, clips: Sequence[int] = (0, 1, 2, 3)) -> FeatureBatch:
    """Clips of several lengths, padded with zeros as a feature set pads them."""
    generator = torch.Generator().manual_seed(seed)
    preset = backbone.preset
    longest, most = max(LATENTS[i] for i in clips), max(FRAMES[i] for i in clips)
    video = torch.zeros(len(clips), most, 1, preset.video.width)
    mean = torch.zeros(len(clips), preset.latent_channels, longest)
    scale = torch.zeros_like(mean)
    for row, i in enumerate(clips):
        video[row, : FRAMES[i]] = torch.randn(FRAMES[i], 1, preset.video.width, generator=generator)
        mean[row, :, : LATENTS[i]] = torch.randn(
            preset.latent_channels, LATENTS[i], generator=generator
        )
        scale[row, :, : LATENTS[i]] = 0.7
    words = ["metal", "a ball bounces on wood", "glass", ""]
    return FeatureBatch(
        video=video,
        frames=torch.tensor([FRAMES[i] for i in clips]),
        latent_mean=mean,
        latent_scale=scale,
        latents=torch.tensor([LATENTS[i] for i in clips]),
        text=backbone.encode_text([words[i] for i in clips]),
        seconds=[LATENTS[i] / 25 for i in clips],
    )


def make_bridge(backbone: Backbone) -> Bridge:
    """A bridge that already does something, so that every part of it has a gradient."""
    torch.manual_seed(0)
    bridge = build_bridge(backbone)
    for layer in bridge.blocks:
        torch.nn.init.normal_(layer.to_out.weight, std=0.05)
    torch.nn.init.normal_(bridge.null)
    bridge.insert(backbone.dit)
    return bridge


def loss_of(
    backbone: Backbone,
    batch: FeatureBatch,
    noisy: Tensor,
    t: Tensor,
    target: Tensor,
    drop: float,
    untold: Sequence[int] = (),
) -> Tensor:
    """Mean squared error over the latents that the clips have, clip by clip."""
    errors = errors_of(backbone, batch, (noisy, t, target), drop, untold)
    squares, count = sum(error.sum() for error in errors), sum(error.numel() for error in errors)
    return torch.as_tensor(squares) / count


def errors_of(
    backbone: Backbone,
    batch: FeatureBatch,
    latents: tuple[Tensor, Tensor, Tensor],
    drop: float,
    untold: Sequence[int] = (),
) -> list[Tensor]:
    """Squared errors of each clip, over the latents that it has."""
    given = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    for row in untold:
        given["cross_attn_cond"][row] *= 0
    noisy, t, target = latents
    predicted = backbone(noisy, t, cfg_dropout_prob=drop, **given)
    return [
        (predicted[row, :, :length] - target[row, :, :length]) ** 2
        for row, length in enumerate(batch.latents.tolist())
    ]


def noised(clean: Sequence[Tensor], t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, times and targets of v-prediction, clip by clip."""
    noisy, target = torch.zeros_like(noise), torch.zeros_like(noise)
    for row, latents in enumerate(clean):
        angle = float(t[row]) * math.pi / 2
        noisy[row] = math.cos(angle) * latents + math.sin(angle) * noise[row]
        target[row] = math.cos(angle) * noise[row] - math.sin(angle) * latents
    return noisy, t, target


@dataclass
class Reference:
    """What is shown of clips, AdamW, clipping and moving average, by their formulas."""

    backbone: Backbone
    bridge: Bridge
    settings: TrainSettings
    canvas: int | None = None  # latents

    def __post_init__(self) -> None:
        self.weights = [p for p in self.bridge.parameters() if p.requires_grad]
        self.first = [torch.zeros_like(w) for w in self.weights]
        self.second = [torch.zeros_like(w) for w in self.weights]
        self.average = [w.detach().clone() for w in self.weights]
        self.began_with = [w.detach().clone() for w in self.weights]
        self.step = self.bare = self.others = self.shifted = 0

    def take(self, batches: Sequence[FeatureBatch]) -> tuple[float, float]:
        """One step; its loss and the norm of its gradient before clipping."""
        total = 0.0
        for weight in self.weights:
            weight.grad = None
        for number, batch in enumerate(batches):
            total += self._micro_batch(batch, number, len(batches))
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        shrink = min(1.0, self.settings.clip_norm / norm)
        self._adam([g * shrink for g in gradients])
        return total, norm

    def shown(self, batch: FeatureBatch) -> FeatureBatch:
        """The clips as long as the shortest of them, or in full and silent to the canvas's end."""
        counts, frames = batch.latents.tolist(), batch.frames.tolist()
        length = self.canvas or min(counts)
        frames = [min(n, math.ceil(length / 25 * 8)) for n in frames]
        mean, scale = (x[..., :length] for x in (batch.latent_mean, batch.latent_scale))
        if self.canvas:
            sound = torch.zeros(1, 1, 100 * self.backbone.preset.downsampling_ratio)
            silence = [x[0, :, 50:51].expand(-1, length) for x in self.backbone.codec.encode(sound)]
            mean, scale = (
                torch.stack(
                    [torch.cat([a[:, :n], b[:, n:]], 1) for a, n in zip(x, counts, strict=True)]
                )
                for x, b in ((mean, silence[0]), (scale, silence[1]))
            )
        return FeatureBatch(
            video=batch.video[:, : max(frames)],
            frames=torch.tensor(frames),
            latent_mean=mean,
            latent_scale=scale,
            latents=torch.tensor([min(n, length) for n in counts]),
            text=batch.text,
            seconds=[min(n, length) / 25 for n in counts],
        )

    def _micro_batch(self, batch: FeatureBatch, number: int, of: int) -> float:
        batch = self.shown(batch)
        seed = _mix(self.settings.seed, self.step, number)
        generator = torch.Generator().manual_seed(seed)
        size = len(batch.video)
        strata = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        t = strata[torch.randperm(size, generator=generator)]
        draws = torch.randn((2, *batch.latent_mean.shape), generator=generator)
        keeps = torch.rand(size, generator=generator) >= self.settings.video_drop
        bare = torch.rand(size, generator=generator) < self.settings.joint_drop
        attended = torch.rand((*batch.video.shape[:3],), generator=generator)
        kept = attended >= self.settings.token_drop
        self.bare += int(bare.sum())
        clean = [batch.latent_mean[i] + draws[0, i] * batch.latent_scale[i] for i in range(size)]
        own = noised(clean, t, draws[1])
        video = VideoBatch(batch.video, batch.frames, keeps & ~bare, kept=kept)
        rest = self.settings.text_drop, bare.nonzero().flatten().tolist()

        def errors(latents: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
            torch.manual_seed(seed + 1)  # the library draws which texts it drops
            return errors_of(self.backbone, batch, latents, *rest)

        false, before = own, [0.0] * size
        if self.settings.preference:
            false = noised(self.false(clean, batch, generator), t, draws[1])
            before = self._before(video, draws.shape[-1], lambda: (errors(false), errors(own)))
        with self.bridge.conditioned_on(video, draws.shape[-1]):
            squares = errors(own)
            loss = torch.cat([error.flatten() for error in squares]).mean()
            if self.settings.preference:
                pairs = zip(errors(false), squares, before, strict=True)
                gains = [worse.mean() - better.mean() - first for worse, better, first in pairs]
                told = torch.stack(gains)[keeps & ~bare]
                odds = 1 / (1 + torch.exp(-self.settings.preference_beta * told))
                loss = loss - self.settings.preference * odds.log().sum() / max(1, len(told))
            (loss / of).backward()
        return float(loss.detach()) / of

    @torch.no_grad()
    def _before(
        self, video: VideoBatch, length: int, errors: Callable[[], Sequence[list[Tensor]]]
    ) -> list[float]:
        """How much worse false sounds were than the own ones for the weights at the beginning."""
        now = [weight.clone() for weight in self.weights]
        for weight, first in zip(self.weights, self.began_with, strict=True):
            weight.copy_(first)
        with self.bridge.conditioned_on(video, length):
            false, own = errors()
        for weight, value in zip(self.weights, now, strict=True):
            weight.copy_(value)
        return [float(a.mean() - b.mean()) for a, b in zip(false, own, strict=True)]

    def false(
        self, clean: Sequence[Tensor], batch: FeatureBatch, generator: torch.Generator
    ) -> list[Tensor]:
        """Another clip's sound in four of ten, else the own one, later, around its own end."""
        who, which, when = torch.rand(3, len(clean), generator=generator).tolist()
        made: list[Tensor] = []
        for row, latents in enumerate(clean):
            if which[row] < 0.4:
                made.append(clean[(row + 1 + int(who[row] * (len(clean) - 1))) % len(clean)])
                self.others += 1
                continue
            length = int(batch.latents[row])
            least = 0.12 * 25
            shift = max(1, round(least + when[row] * (length - 2 * least)))
            turned = torch.roll(latents[:, :length], shift, 1)
            made.append(torch.cat([turned, latents[:, length:]], 1))
            self.shifted += 1
        return made

    @torch.no_grad()
    def _adam(self, gradients: Sequence[Tensor]) -> None:
        """Decoupled weight decay (Loshchilov and Hutter), a linear rise times half a cosine."""
        settings, n = self.settings, self.step + 1
        rise = min(1.0, n / settings.warmup_steps)
        fall = (1 + math.cos(math.pi * self.step / settings.steps)) / 2
        rate = settings.learning_rate * rise * fall
        b1, b2 = settings.betas
        decay = min(settings.ema_decay or 0.0, (1 + self.step) / (10 + self.step))
        for i, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            self.first[i] = b1 * self.first[i] + (1 - b1) * gradient
            self.second[i] = b2 * self.second[i] + (1 - b2) * gradient * gradient
            mean, square = self.first[i] / (1 - b1**n), self.second[i] / (1 - b2**n)
            if weight.grad is None:
                continue  # no clip of this step was without video: the null token had no part
            weight.mul_(1 - rate * settings.weight_decay)
            weight.sub_(rate * mean / (square.sqrt() + 1e-8))
            self.average[i] = decay * self.average[i] + (1 - decay) * weight
        self.step += 1


def pair(preset: Preset, **changes: Any) -> tuple[Trainer, Reference]:
    settings = preset.train.model_copy(update=RECIPE | changes)
    backbones = [Backbone.from_pretrained(preset) for _ in range(2)]
    trainer = Trainer(backbones[0], make_bridge(backbones[0]), settings)
    seconds = preset.window.canvas_seconds
    canvas = None if seconds is None else round(seconds * 25)
    return trainer, Reference(backbones[1], make_bridge(backbones[1]), settings, canvas)
