"""Training of the bridge on a frozen backbone, from cached features (paper sections 3.3 and 4.1).

One optimiser step sees `settings.micro_batches` batches, whatever the number of processes: each
process takes its share of them and gradients are summed. All randomness of a micro-batch follows
from (seed, step, its number). So a run can stop after any step and go on to the same weights, and
several processes train what one would.

Shapes: B clips, J effective frames of P tokens of width V, C latent channels, L latent frames, N
text tokens of width D.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.presets.settings import TrainSettings
from model.training.divergence import LossWatch

if TYPE_CHECKING:
    from accelerate import PartialState


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

    def to(self, device: torch.device) -> FeatureBatch:
        """The same on a device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, text=[row.to(device) for row in self.text])


@dataclass(frozen=True)
class NoisyLatents:
    """Latents on their way from clean to noise, and what the DiT has to predict of them."""

    t: Tensor  # [B] times in 0..1
    noisy: Tensor  # [B, C, L]
    target: Tensor  # [B, C, L]


@dataclass(frozen=True)
class Losses:
    """Validation v-loss with the clips' own video, with none, and with another clip's."""

    true: float
    null: float
    other: float


@dataclass(frozen=True)
class Progress:
    """One optimiser step of training; `validation` where it was measured."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    validation: Losses | None = None


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and which of them this is."""

    rank: int = 0
    world: int = 1

    def share(self, count: int) -> range:
        """Which of so many batches this process takes."""
        return range(self.rank, count, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in each of them."""
        if self.world == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value, "sum")  # pyright: ignore[reportReturnType]


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Times [size] in 0..1, one from each of `size` equal intervals, for less noise in the loss."""
    return (torch.arange(size) + torch.rand(size, generator=generator)) / size


def diffuse(clean: Tensor, t: Tensor, noise: Tensor, objective: str = "v") -> NoisyLatents:
    """Clean latents [B, C, L] with noise [B, C, L] added as at times t [B].

    `objective` is the backbone's own: "v" (alpha noise - sigma clean) or "rectified_flow" (noise -
    clean).
    """
    at = t[:, None, None]
    if objective == "rectified_flow":
        return NoisyLatents(t, (1 - at) * clean + at * noise, noise - clean)
    alpha, sigma = (at * (math.pi / 2)).cos(), (at * (math.pi / 2)).sin()
    return NoisyLatents(t, alpha * clean + sigma * noise, alpha * noise - sigma * clean)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of optimiser step `step` (from 0).

    "cosine" rises linearly and falls to zero as half a cosine; "inverse" is the backbone's own
    (stable-audio-tools' InverseLR: gamma 1e6, power 0.5, exponential warm-up 0.99).
    """
    if settings.schedule == "inverse":
        return settings.learning_rate * (1 - 0.99 ** (step + 1)) * (1 + step / 1e6) ** -0.5
    rise = min(1.0, (step + 1) / settings.warmup_steps)
    fall = 1 + math.cos(math.pi * min(1.0, step / settings.steps))
    return settings.learning_rate * rise * 0.5 * fall


def v_loss(
    backbone: Backbone, batch: FeatureBatch, latents: NoisyLatents, **options: Any
) -> Tensor:
    """Mean squared error of the prediction over the latents that clips have.

    Call it while the bridge is conditioned on the clips' video; options go to the DiT.
    """
    inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    predicted = backbone(latents.noisy, latents.t, **inputs, **options)
    error = (predicted - latents.target).square().mean(1)  # [B, L]
    present = torch.arange(error.shape[-1], device=error.device) < batch.latents[:, None]
    return error[present].mean()


@torch.no_grad()
def validate(
    backbone: Backbone,
    bridge: Bridge,
    batches: Sequence[FeatureBatch],
    seed: int,
    processes: Processes | None = None,
) -> Losses:
    """v-loss with true, null and another clip's video, on the same times and noise for the three.

    Where several processes validate, each takes its share of the batches: a batch's losses are
    those of one process, and so is their sum, to the bit.
    """
    processes = processes or Processes()
    totals = torch.zeros(len(batches), 3, dtype=torch.float64)
    for index in processes.share(len(batches)):
        batch = batches[index].to(backbone.device)
        totals[index] = _batch_losses(backbone, bridge, batch, seed + index)
    clips = sum(len(batch.video) for batch in batches)
    true, null, other = (processes.sum(totals.to(backbone.device)).cpu().sum(0) / clips).tolist()
    return Losses(true, null, other)


def _batch_losses(backbone: Backbone, bridge: Bridge, batch: FeatureBatch, seed: int) -> Tensor:
    """v-losses [3] of a batch (true, null, another clip's video), times its clips."""
    generator = torch.Generator().manual_seed(seed)
    size, device = len(batch.video), backbone.device
    t = stratified_times(size, generator).to(device)
    noise = torch.randn(batch.latent_mean.shape, generator=generator).to(device)
    latents = diffuse(batch.latent_mean, t, noise, backbone.objective)
    true = VideoBatch(batch.video, batch.frames)
    null = replace(true, seen=torch.zeros(size, dtype=torch.bool, device=device))
    other = VideoBatch(batch.video.roll(1, 0), batch.frames.roll(1, 0))
    losses: list[float] = []
    for video in (true, null, other):
        with bridge.conditioned_on(video, noise.shape[-1]):
            losses.append(float(v_loss(backbone, batch, latents)) * size)
    return torch.tensor(losses, dtype=torch.float64)


class Trainer:
    """The inserted bridge, its optimiser and its moving average, between two optimiser steps.

    `processes` is Accelerate's view of the processes that train together; None means this one
    alone. The backbone stays frozen: no gradient or optimiser state of it is kept.
    """

    def __init__(
        self,
        backbone: Backbone,
        bridge: Bridge,
        settings: TrainSettings,
        processes: PartialState | None = None,
    ) -> None:
        self.backbone, self.bridge, self.settings = backbone, bridge, settings
        self.processes = Processes()
        if processes is not None:
            self.processes = Processes(processes.process_index, processes.num_processes)
        self.step = 0
        #: False while weights are being changed: what is there then must not be kept.
        self.whole = True
        self._watch = LossWatch(settings.diverged_at)
        self.parameters = [p for p in bridge.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            settings.learning_rate,
            settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else None
        if settings.precision == "bf16":
            for frozen in set(backbone.dit.parameters()) - set(self.parameters):
                # Norms and biases are small, and CPUs want them whole; so does training its own.
                if frozen.ndim > 1:
                    frozen.data = frozen.data.bfloat16()
        if settings.compile:
            backbone.compile_blocks()

    @property
    def mine(self) -> range:
        """Numbers of the micro-batches of each step that this process takes."""
        return self.processes.share(self.settings.micro_batches)

    def train_step(self, batches: Sequence[FeatureBatch]) -> Progress:
        """One optimiser step on this process's micro-batches, in the order of `mine`.

        A share `video_drop` of clips sees the null token and a share `text_drop` no text, so that
        guidance can tell what each adds ("token-drop regularization with 10% probability", section
        4.1). Raises DivergedError, in every process and before any weight has changed.
        """
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.backbone.device)
        for number, batch in zip(self.mine, batches, strict=True):
            loss += self._backward(batch.to(self.backbone.device), number)
        loss = self.processes.sum(loss)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = self.processes.sum(parameter.grad)
        rate = learning_rate(self.settings, self.step)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
        self._watch.check(self.step + 1, float(loss), norm)
        self.whole = False
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average is not None:
            # The average follows closely at first.
            decay = min(self.settings.ema_decay or 0.0, (1 + self.step) / (10 + self.step))
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter.detach(), 1 - decay)
        self.step += 1
        self.whole = True
        return Progress(self.step, float(loss), norm, rate)

    def _backward(self, batch: FeatureBatch, number: int) -> Tensor:
        """Add one micro-batch's share to the gradients; returns its share of the loss."""
        settings, device = self.settings, batch.video.device
        seed = _mix(settings.seed, self.step, number)
        generator = torch.Generator().manual_seed(seed)
        size = len(batch.video)
        t = stratified_times(size, generator)[torch.randperm(size, generator=generator)]
        draw = torch.randn((2, *batch.latent_mean.shape), generator=generator).to(device)
        seen = torch.rand(size, generator=generator) >= settings.video_drop
        clean = batch.latent_mean + batch.latent_scale * draw[0]
        latents = diffuse(clean, t.to(device), draw[1], self.backbone.objective)
        video = VideoBatch(batch.video, batch.frames, seen.to(device))
        options = {
            "cfg_dropout_prob": settings.text_drop,
            "use_checkpointing": settings.checkpointing,
        }
        torch.manual_seed(seed + 1)  # the library drops text by the global generator
        with self.precision(), self.bridge.conditioned_on(video, clean.shape[-1]):
            loss = v_loss(self.backbone, batch, latents, **options) / settings.micro_batches
            loss.backward()  # inside: with checkpointing the layers run again here
        return loss.detach()

    def precision(self) -> torch.autocast:
        """The types of numbers that forwards run in."""
        return torch.autocast(
            self.backbone.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The moving average in place of the weights, where one is kept."""
        if self.average is None:
            yield
            return
        trained = [p.detach().clone() for p in self.parameters]
        try:
            self._set(self.average)
            yield
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def validate(self, batches: Sequence[FeatureBatch]) -> Losses:
        """Validation losses of the weights that would be kept; all processes call this."""
        with self.averaged(), self.precision():
            return validate(self.backbone, self.bridge, batches, self.settings.seed, self.processes)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        return {
            "step": self.step,
            "average": self.average,
            "bridge": self.bridge.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises RuntimeError or KeyError if it is another training's.
        """
        self.bridge.load_state_dict(state["bridge"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            pairs = zip(state["average"], self.parameters, strict=True)
            self.average = [value.to(parameter.device) for value, parameter in pairs]
        self._watch.load_state_dict(state["watch"])
        self.step = state["step"]


def _mix(*numbers: int) -> int:
    """One 62-bit seed from several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number * 1442695040888963407 + 1) % (1 << 62)
    return mixed
