"""Early stopping: the best weights by validation are what a training leaves."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class EarlyStopping:
    """The best weights by validation so far, and whether `patience` validations brought no better.

    Several processes measure the same losses, and so stop after the same step.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience  # None: never, and no weights are kept
        self.losses: dict[int, float] = {}  # v-losses by the step after which they were measured
        self.weights: list[Tensor] | None = None  # those of the best step, in the main memory

    @property
    def best(self) -> int | None:
        """The step of the lowest loss, the first of equals; None before the first validation."""
        return min(self.losses, key=lambda step: (self.losses[step], step), default=None)

    @property
    def stop(self) -> bool:
        """Whether no step after the best one is worth more waiting."""
        if self.patience is None or self.best is None:
            return False
        return sum(step > self.best for step in self.losses) >= self.patience

    def add(self, step: int, loss: float, weights: Sequence[Tensor]) -> None:
        """Note a validation; one of a step that was noted before takes its place."""
        if self.patience is None:
            return
        self.losses[step] = loss if math.isfinite(loss) else math.inf
        if self.best == step:
            self.weights = [weight.detach().to("cpu", copy=True) for weight in weights]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"losses": dict(self.losses), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.losses, self.weights = dict(state["losses"]), state["weights"]
