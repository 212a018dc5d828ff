"""Training of the bridge on a frozen backbone, from cached features (paper sections 3.3 and 4.1).

One optimiser step sees `settings.micro_batches` batches, whatever the number of processes: each
process takes its share of them and gradients are summed. All randomness of a micro-batch follows
from (seed, step, its number). So a run can stop after any step and go on to the same weights, and
several processes train what one would.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge
from model.presets.settings import TrainSettings
from model.training.divergence import DivergedError, LossWatch
from model.training.early_stopping import EarlyStopping
from model.training.feature_batch import FeatureBatch, on_canvas
from model.training.micro_batch import Draws, MicroBatchLoss, draw
from model.training.processes import ALONE, Processes, undisturbed
from model.training.validation import Losses, validate
from model.weights.device import autocast

#: Equal parts of the times 0..1, from nearly clean to nearly noise, whose losses are told apart.
NOISE_LEVELS = 5


@dataclass(frozen=True)
class Progress:
    """One optimiser step of training; `validation` where it was measured."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    validation: Losses | None = None
    #: Of each of NOISE_LEVELS: the sum of its clips' losses, and the clips.
    levels: Sequence[Sequence[float]] = ()


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


class Trainer:
    """The inserted bridge, its optimiser and its moving average, between two optimiser steps.

    The backbone stays frozen: no gradient or optimiser state of it is kept.
    """

    def __init__(
        self,
        backbone: Backbone,
        bridge: Bridge,
        settings: TrainSettings,
        processes: Processes = ALONE,
    ) -> None:
        self.backbone, self.bridge, self.settings = backbone, bridge, settings
        self.processes, self.step = processes, 0
        self._averaged = 0  # steps that the moving average has behind it from an earlier training
        self.latest: Progress | None = None  # of the last step that was taken here
        #: Whether any of the processes was told to stop, as all of them know since the last step.
        self.stopped = False
        self._watch = LossWatch(settings.diverged_at)
        self.early = EarlyStopping(settings.patience)
        self.parameters = [p for p in bridge.parameters() if p.requires_grad]
        self._micro_batch = MicroBatchLoss(backbone, bridge, settings)
        self._loss = self.processes.together(self._micro_batch)
        #: The weights of the parent, which a preference is measured against.
        self.began_with = None
        if settings.preference:
            self.began_with = [p.detach().clone() for p in self.parameters]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimiser = torch.optim.AdamW(
            self.parameters, rate, settings.betas, weight_decay=decay
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
    def finished(self) -> bool:
        """Whether no step is left to take."""
        return self.step >= self.settings.steps or self.early.stop

    @property
    def mine(self) -> range:
        """Numbers of the micro-batches of each step that this process takes."""
        return self.processes.share(self.settings.micro_batches)

    def train_step(self, batches: Iterable[FeatureBatch]) -> Progress:
        """One optimiser step on this process's micro-batches, in the order of `mine`.

        A share `video_drop` of clips sees the null token and a share `text_drop` no text, so that
        guidance can tell what each adds ("token-drop regularization with 10% probability", section
        4.1); `joint_drop` and `token_drop` are other readings of it.

        Raises DivergedError, in every process and before any weight has changed.
        """
        loss = torch.zeros((), device=self.backbone.device)
        levels = torch.zeros(NOISE_LEVELS, 2, device=loss.device)
        for number, batch in zip(self.mine, batches, strict=True):
            placed = on_canvas(batch, self.backbone).to(self.backbone.device)
            last = number == self.mine[-1]  # gradients are summed over processes then
            with nullcontext() if last else getattr(self._loss, "no_sync", nullcontext)():
                loss += self._backward(placed, number, levels)
        told = torch.tensor(float(self.processes.told_to_stop()), device=loss.device)
        of_all = self.processes.sum(torch.cat([torch.stack([loss, told]), levels.flatten()]))
        loss, told, *sums = of_all.tolist()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm))
        self._watch.check(self.step + 1, loss, norm)
        self.stopped = told > 0
        rate = learning_rate(self.settings, self.step)
        pairs = list(zip(sums[::2], sums[1::2], strict=True))
        progress = Progress(self.step + 1, loss, norm, rate, levels=pairs)
        undisturbed(lambda: self._update(progress))
        return progress

    def _update(self, progress: Progress) -> None:
        """Change the weights by their gradients, which are then gone, and the average with them."""
        for group in self.optimiser.param_groups:
            group["lr"] = progress.learning_rate
        self.optimiser.step()
        if self.average is not None:
            # The average follows closely at first.
            seen = self._averaged + self.step
            decay = min(self.settings.ema_decay or 0.0, (1 + seen) / (10 + seen))
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter.detach(), 1 - decay)
        self.optimiser.zero_grad(set_to_none=True)  # what is measured now has their memory
        self.step, self.latest = progress.step, progress

    def _backward(self, batch: FeatureBatch, number: int, levels: Tensor) -> Tensor:
        """Add one micro-batch's share to the gradients, and its clips' losses to `levels`.

        Returns its share of the loss.
        """
        settings, seed = self.settings, _mix(self.settings.seed, self.step, number)
        tokens = self.bridge.tokens_attended(batch.video.shape[2])
        draws = draw(batch, settings, seed, tokens, self.backbone.objective)
        length = batch.latent_mean.shape[-1]
        # each in a context of its own: autocast remembers casts of weights, and these are others
        with self.precision():
            before = self._margin_before(batch, draws)
        with self.precision(), self.bridge.conditioned_on(draws.video, length):
            loss, own = self._loss(batch, draws, before)
            loss = loss / settings.micro_batches
            # inside: with checkpointing the layers run again here; a mean over processes is taken
            (loss * self.processes.world).backward()
        at = (draws.latents.t * NOISE_LEVELS).long().clamp(max=NOISE_LEVELS - 1)
        levels.index_add_(0, at, torch.stack([own.detach(), torch.ones_like(own)], 1).float())
        return loss.detach()

    @torch.no_grad()
    def _margin_before(self, batch: FeatureBatch, draws: Draws) -> Tensor | None:
        """By how much the bridge that this training began with prefers the own sounds [B]."""
        if draws.false is None:
            return None
        with (
            self._holding(self.began_with),
            self.bridge.conditioned_on(draws.video, batch.latent_mean.shape[-1]),
        ):
            return self._micro_batch.margin(batch, draws)

    def precision(self) -> torch.autocast:
        """The types of numbers that forwards run in."""
        return autocast(self.settings.precision, self.backbone.device)

    def averaged(self) -> AbstractContextManager[None]:
        """The moving average in place of the weights, where one is kept."""
        return self._holding(self.average)

    def best(self) -> AbstractContextManager[None]:
        """What the training leaves: under `patience` the best by validation, else the newest."""
        return self._holding(self.early.weights or self.average)

    @contextmanager
    def _holding(self, values: Sequence[Tensor] | None) -> Generator[None]:
        """Others in place of the weights, if there are any; nothing is copied on their device."""
        if values is None:
            yield
            return
        trained = [p.data for p in self.parameters]
        try:
            self._hold(values)
            yield
        finally:
            undisturbed(lambda: self._hold(trained))

    def _hold(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data = value.to(parameter.device)

    def validate(self, batches: Sequence[FeatureBatch]) -> Losses:
        """Validation losses of the weights that would be kept; all processes call this."""
        seed = self.settings.seed
        with self.averaged():
            with self.precision():
                losses = validate(self.backbone, self.bridge, batches, seed, self.processes)
            undisturbed(lambda: self.early.add(self.step, losses.true, self.parameters))
        return losses

    def check_processes(self) -> None:
        """See that all processes hold the same weights; each of them calls this.

        Raises DivergedError, in every one of them, where they do not.
        """
        if ranks := self.processes.different(self.bridge.state_dict().values()):
            names = ", ".join(map(str, ranks))
            raise DivergedError(
                f"step {self.step}: the weights of process {names} are not those of process 0",
                self.step - 1,
                "Look for a device at fault",
            )

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened."""
        return {
            "step": self.step,
            "average": self.average,
            "bridge": self.bridge.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "watch": self._watch.state_dict(),
            "early": self.early.state_dict(),
            "averaged": self._averaged,
        }

    def begin_with(self, state: dict[str, Any]) -> None:
        """Take weights, moments and average of another training's :meth:`state_dict`.

        Step, learning rate and all other settings stay this training's own. Raises RuntimeError,
        KeyError or ValueError if it is of another bridge.
        """
        groups = self.optimiser.state_dict()["param_groups"]
        self._take(state | {"optimiser": {**state["optimiser"], "param_groups": groups}})
        self._averaged = state["averaged"] + state["step"]

    def _take(self, state: dict[str, Any]) -> None:
        self.bridge.load_state_dict(state["bridge"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            values = state["average"] or self.parameters  # where none was kept: the weights
            pairs = zip(values, self.parameters, strict=True)
            self.average = [value.detach().clone().to(p.device) for value, p in pairs]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; raises RuntimeError or KeyError if it is another's."""
        self._take(state)
        self._watch.load_state_dict(state["watch"])
        self.early.load_state_dict(state["early"])
        self.step, self._averaged = state["step"], state["averaged"]


def _mix(*numbers: int) -> int:
    """One 62-bit seed from several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number * 1442695040888963407 + 1) % (1 << 62)
    return mixed
