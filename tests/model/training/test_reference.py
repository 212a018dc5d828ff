"""A training step against a plain loop written from the paper, on clips of different lengths.

The loop below shares with the product the frozen DiT, the layers of the bridge and the numbers
that are drawn (from a generator seeded by seed, step and micro-batch); everything else is its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import build_bridge
from model.presets.preset import ModelError, Preset
from model.presets.settings import TrainSettings, WindowSettings
from model.sampling.canvas import Canvas
from model.training.feature_batch import FeatureBatch, cut_to_fit
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
    given = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    for row in untold:
        given["cross_attn_cond"][row] *= 0
    predicted = backbone(noisy, t, cfg_dropout_prob=drop, **given)
    squares, count = torch.zeros(()), 0
    for row, length in enumerate(batch.latents.tolist()):
        error = predicted[row, :, :length] - target[row, :, :length]
        squares = squares + (error * error).sum()
        count += error.numel()
    return squares / count


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
        self.step = self.bare = 0

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
        noisy, target = torch.zeros_like(draws[0]), torch.zeros_like(draws[0])
        for row in range(size):
            clean = batch.latent_mean[row] + draws[0, row] * batch.latent_scale[row]
            angle = float(t[row]) * math.pi / 2
            noisy[row] = math.cos(angle) * clean + math.sin(angle) * draws[1, row]
            target[row] = math.cos(angle) * draws[1, row] - math.sin(angle) * clean
        torch.manual_seed(seed + 1)  # the library draws which texts it drops
        video = VideoBatch(batch.video, batch.frames, keeps & ~bare, kept=kept)
        with self.bridge.conditioned_on(video, noisy.shape[-1]):
            rest = noisy, t, target, self.settings.text_drop, bare.nonzero().flatten().tolist()
            loss = loss_of(self.backbone, batch, *rest)
            (loss / of).backward()
        return float(loss) / of

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


@pytest.mark.parametrize("canvas_seconds", [None, 3.0])
def test_steps_are_those_of_the_paper(preset: Preset, canvas_seconds: float | None) -> None:
    window = WindowSettings(seconds=2.0, overlap=1.0, canvas_seconds=canvas_seconds)
    preset = preset.model_copy(update={"window": window})
    trainer, reference = pair(preset)
    dropped = 0
    for step in range(4):
        shapes = [(0, 1, 2, 3), (3, 2, 1, 0)] if step % 2 else [(1, 2, 3, 0), (2, 0, 1, 3)]
        batches = [
            make_batch(trainer.backbone, 10 * step + n, clips) for n, clips in enumerate(shapes)
        ]
        fitting = [cut_to_fit(batch, Canvas.of(preset)) for batch in batches]
        progress = trainer.train_step(fitting)
        loss, norm = reference.take(batches)
        assert progress.loss == pytest.approx(loss, rel=1e-5)
        assert progress.grad_norm == pytest.approx(norm, rel=1e-4)
        assert norm > trainer.settings.clip_norm  # it is clipped, or the test shows nothing of it
        dropped += sum(w.grad is not None for w in (reference.bridge.null,))
    assert dropped
    assert reference.bare
    for mine, theirs in zip(trainer.parameters, reference.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert trainer.average is not None
    for mine, theirs in zip(trainer.average, reference.average, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_validation_is_of_the_average_and_a_batch_of_one_borrows_another_clips_video(
    preset: Preset,
) -> None:
    trainer, reference = pair(preset, text_drop=0.0)
    canvas = Canvas.of(preset)
    batches = [cut_to_fit(make_batch(trainer.backbone, n), canvas) for n in range(2)]
    trainer.train_step(batches)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.add_(0.01)  # weights and average lie apart
    padded = [make_batch(trainer.backbone, n, clips) for n, clips in enumerate(HELD_OUT, 7)]
    found = trainer.validate([cut_to_fit(batch, canvas) for batch in padded])
    assert trainer.average is not None
    with torch.no_grad():
        for weight, average in zip(reference.weights, trainer.average, strict=True):
            weight.copy_(average)
    held_out = [reference.shown(batch) for batch in padded]
    sums = {"true": 0.0, "null": 0.0, "other": 0.0}
    for index, batch in enumerate(held_out):
        size = len(batch.video)
        generator = torch.Generator().manual_seed(trainer.settings.seed + index)
        t = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        noise = torch.randn(batch.latent_mean.shape, generator=generator)
        angle = (t * math.pi / 2)[:, None, None]
        noisy = angle.cos() * batch.latent_mean + angle.sin() * noise
        target = angle.cos() * noise - angle.sin() * batch.latent_mean
        everyone = torch.ones(size, dtype=torch.bool)
        before = [(row - 1) % size for row in range(size)]
        others = VideoBatch(batch.video[before], batch.frames[before], everyone)
        if size == 1:  # the last clip of the batch before, up to this one's last frame
            [own], lender = batch.frames.tolist(), held_out[index - 1]
            tokens = lender.video[-1:, : int(lender.frames[-1])][:, :own]
            others = VideoBatch(tokens, None, everyone)
        videos = {
            "true": VideoBatch(batch.video, batch.frames, everyone),
            "null": VideoBatch(batch.video, batch.frames, ~everyone),
            "other": others,
        }
        for name, video in videos.items():
            with torch.no_grad(), reference.bridge.conditioned_on(video, noisy.shape[-1]):
                loss = loss_of(reference.backbone, batch, noisy, t, target, 0.0)
            sums[name] += float(loss) * size
    clips = sum(map(len, HELD_OUT))
    assert vars(found) == pytest.approx({n: s / clips for n, s in sums.items()}, rel=1e-5)
    assert len(set(vars(found).values())) == 3
    alone = trainer.validate([cut_to_fit(padded[0], canvas)])
    assert not math.isnan(alone.true)
    assert math.isnan(alone.other)  # there is no other clip


def test_clips_of_unequal_lengths_are_refused_where_there_is_no_canvas(preset: Preset) -> None:
    trainer, _ = pair(preset, micro_batches=1)
    with pytest.raises(ModelError, match=r"clips of \[50, 31, 12, 44\] latents in one batch"):
        trainer.train_step([make_batch(trainer.backbone, 0)])
