"""Tells a training that diverges from one that met a bad batch."""

import math
from collections import deque
from itertools import takewhile
from statistics import median
from typing import Any

#: Steps in a row that must cost too much. One clip of loud noise costs its batch tens of times the
#: usual loss, and every few batches of an uncurated set hold one.
PATIENCE = 20
#: Steps from which on there is a usual loss.
FEWEST = 5


class DivergedError(ArithmeticError):
    """The loss or its gradient is no longer a number, or the loss stays far above what it was.

    Or processes that train together no longer hold the same weights. The message says when; `good`
    is the last step after which all was as it should be.
    """

    def __init__(self, message: str, good: int, advice: str = "Try a lower learning rate") -> None:
        super().__init__(message)
        self.good, self.advice = good, advice


class LossWatch:
    """Sees the loss of every step: PATIENCE in a row above `most` times the usual are a divergence.

    The usual loss is the lowest median so far of the last FEWEST to PATIENCE steps.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self._losses: deque[float] = deque(maxlen=PATIENCE)
        self._usual = math.inf

    def check(self, step: int, loss: float, norm: float) -> None:
        """Note the loss of `step` (from 1) and the norm of its gradient. Raises DivergedError."""
        self._losses.append(loss)
        most = self.most * self._usual
        # `not <=` rather than `>`, because a loss that is no number counts as high
        high = sum(1 for _ in takewhile(lambda value: not value <= most, reversed(self._losses)))
        # The weights after step n give the loss of step n + 1: the last that was not too high.
        good = step - max(1, high) - 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: the loss is {loss:g} and the norm of its gradient {norm:g}", good
            )
        if high == PATIENCE:
            raise DivergedError(
                f"step {step}: the loss rose to {loss:.4g}, it had been {self._usual:.4g}", good
            )
        if len(self._losses) >= FEWEST:
            self._usual = min(self._usual, median(self._losses))

    def state_dict(self) -> dict[str, Any]:
        """What was seen."""
        return {"losses": list(self._losses), "usual": self._usual}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._losses, self._usual = deque(state["losses"], PATIENCE), state["usual"]
