"""Training of the bridge on a frozen backbone, from cached features only (paper sections 3.3 and 4.1).

One optimiser step sees `settings.micro_batches` batches, whatever the number of processes: each
process takes its share of them and gradients are summed. All randomness of a micro-batch follows
from (seed, step, its number). So a run can stop after any step and go on to the same weights, and
several processes train what one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge
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
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved, text=[row.to(device) for row in self.text])


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

    def with_validation(self, losses: Losses) -> Progress:
        """The same step, with what was measured after it."""
        return replace(self, validation=losses)


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Times [size], uniform in 0..1, one from each of `size` equal intervals.

    Less noise in the loss.
    """
    return (torch.arange(size) + torch.rand(size, generator=generator)) / size


def diffuse(clean: Tensor, t: Tensor, noise: Tensor, objective: str = "v") -> tuple[Tensor, Tensor]:
    """Latents [B, C, L] at times t [B] -> noisy latents and what the DiT has to predict.

    `objective` is the backbone's own: "v" (alpha noise - sigma clean) or "rectified_flow" (noise -
    clean).
    """
    t = t[:, None, None]
    if objective == "rectified_flow":
        return (1 - t) * clean + t * noise, noise - clean
    alpha, sigma = (t * (math.pi / 2)).cos(), (t * (math.pi / 2)).sin()
    return alpha * clean + sigma * noise, alpha * noise - sigma * clean


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of optimiser step `step` (from 0).

    "cosine" rises linearly and falls to zero as half a cosine; "inverse" is the backbone's own
    (stable-audio-tools' InverseLR: gamma 1e6, power 0.5, exponential warm-up 0.99).
    """
    if settings.schedule == "inverse":
        return settings.learning_rate * (1 - 0.99 ** (step + 1)) * (1 + step / 1e6) ** -0.5
    rise = min(1.0, (step + 1) / settings.warmup_steps)
    return (
        settings.learning_rate
        * rise
        * 0.5
        * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))
    )


def v_loss(
    backbone: Backbone,
    batch: FeatureBatch,
    clean: Tensor,
    t: Tensor,
    noise: Tensor,
    text_drop: float = 0.0,
    **kw: Any,
) -> Tensor:
    """Mean squared error of the prediction over the latents that clips have (call it inside `watching`)."""
    noisy, target = diffuse(clean, t, noise, backbone.objective)
    inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    error = (
        (backbone(noisy, t, cfg_dropout_prob=text_drop, **inputs, **kw) - target).square().mean(1)
    )  # [B, L]
    present = torch.arange(error.shape[-1], device=error.device) < batch.latents[:, None]
    return error[present].mean()


@torch.no_grad()
def validate(
    backbone: Backbone,
    bridge: Bridge,
    batches: Sequence[FeatureBatch],
    seed: int,
    mine: range | None = None,
    together: Callable[[Tensor], Tensor] = lambda totals: totals,
) -> Losses:
    """v-loss with true, null and another clip's video, on the same times and noise for the three.

    Where several processes validate, `mine` are the numbers of this one's batches and `together`
    sums a tensor over all: each batch's losses are then those of one process, and so is their sum,
    to the bit.
    """
    totals = torch.zeros(len(batches), 3, dtype=torch.float64)
    for index in range(len(batches)) if mine is None else mine:
        totals[index] = _batch_losses(
            backbone, bridge, batches[index].to(backbone.device), seed + index
        )
    clips = sum(len(batch.video) for batch in batches)
    true, null, other = (together(totals.to(backbone.device)).cpu().sum(0) / clips).tolist()
    return Losses(true, null, other)


def _batch_losses(backbone: Backbone, bridge: Bridge, batch: FeatureBatch, seed: int) -> Tensor:
    """v-losses [3] of a batch (true, null, another clip's video), times its clips."""
    generator = torch.Generator().manual_seed(seed)
    size = len(batch.video)
    t = stratified_times(size, generator).to(backbone.device)
    noise = torch.randn(batch.latent_mean.shape, generator=generator).to(backbone.device)
    everyone = torch.ones(size, dtype=torch.bool, device=backbone.device)
    true, other = (batch.video, batch.frames), (batch.video.roll(1, 0), batch.frames.roll(1, 0))
    found: list[float] = []
    for (video, frames), seen in ((true, everyone), (true, ~everyone), (other, everyone)):
        with bridge.watching(video, noise.shape[-1], frames=frames, seen=seen):
            found.append(float(v_loss(backbone, batch, batch.latent_mean, t, noise)) * size)
    return torch.tensor(found, dtype=torch.float64)


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
        self.backbone, self.bridge, self.settings, self.processes = (
            backbone,
            bridge,
            settings,
            processes,
        )
        self.rank = processes.process_index if processes else 0
        self.world = processes.num_processes if processes else 1
        self.step = 0
        #: False while weights are being changed: what is there then must not be kept.
        self.whole = True
        self._watch = LossWatch(settings.diverged_at)
        self.parameters = [
            parameter for parameter in bridge.parameters() if parameter.requires_grad
        ]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            settings.learning_rate,
            settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else None
        if settings.precision == "bf16":
            for frozen in set(backbone.dit.parameters()) - set(self.parameters):
                if (
                    frozen.ndim > 1
                ):  # norms and biases are small, and CPUs want them whole; so does training its own
                    frozen.data = frozen.data.bfloat16()
        if settings.compile:
            backbone.compile_blocks()

    @property
    def mine(self) -> range:
        """Numbers of the micro-batches of each step that this process takes."""
        return range(self.rank, self.settings.micro_batches, self.world)

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
        loss = self._sum_over_processes(loss)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = self._sum_over_processes(parameter.grad)
        rate = learning_rate(self.settings, self.step)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
        self._watch.check(self.step + 1, float(loss), norm)
        self.whole = False
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average is not None:
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter.detach(), 1 - self._decay())
        self.step += 1
        self.whole = True
        return Progress(self.step, float(loss), norm, rate)

    def _backward(self, batch: FeatureBatch, number: int) -> Tensor:
        """Add one micro-batch's share to the gradients; returns its share of the loss."""
        settings = self.settings
        generator = torch.Generator().manual_seed(_mix(settings.seed, self.step, number))
        size = len(batch.video)
        t = stratified_times(size, generator)[torch.randperm(size, generator=generator)]
        draw = torch.randn((2, *batch.latent_mean.shape), generator=generator).to(
            batch.video.device
        )
        seen = torch.rand(size, generator=generator) >= settings.video_drop
        clean = batch.latent_mean + batch.latent_scale * draw[0]
        torch.manual_seed(
            _mix(settings.seed, self.step, number) + 1
        )  # the library drops text by the global generator
        device = batch.video.device
        with (
            self.precision(),
            self.bridge.watching(
                batch.video, clean.shape[-1], frames=batch.frames, seen=seen.to(device)
            ),
        ):
            loss = v_loss(
                self.backbone, batch, clean, t.to(device), draw[1], settings.text_drop,
                use_checkpointing=settings.checkpointing,
            )  # fmt: skip
            loss = loss / settings.micro_batches
            loss.backward()  # inside: with checkpointing the layers run again here
        return loss.detach()

    def precision(self) -> torch.autocast:
        """The types of numbers that forwards run in."""
        return torch.autocast(
            self.backbone.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        )

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.world == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value, "sum")  # pyright: ignore[reportReturnType]

    def _decay(self) -> float:
        """Decay of the moving average, which follows closely at first."""
        return min(self.settings.ema_decay or 0.0, (1 + self.step) / (10 + self.step))

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
        """Validation losses of the weights that would be kept.

        All processes call this, and share the batches.
        """
        mine = range(self.rank, len(batches), self.world)
        with self.averaged(), self.precision():
            return validate(
                self.backbone,
                self.bridge,
                batches,
                self.settings.seed,
                mine,
                self._sum_over_processes,
            )

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        parts = {"bridge": self.bridge, "optimiser": self.optimiser, "watch": self._watch}
        return {"step": self.step, "average": self.average} | {
            name: p.state_dict() for name, p in parts.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises RuntimeError or KeyError if it is another training's.
        """
        self.bridge.load_state_dict(state["bridge"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average = [
                value.to(p.device)
                for value, p in zip(state["average"], self.parameters, strict=True)
            ]
        self._watch.load_state_dict(state["watch"])
        self.step = state["step"]


def _mix(*numbers: int) -> int:
    """One 62-bit seed from several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number * 1442695040888963407 + 1) % (1 << 62)
    return mixed
