"""Progress of a command's steps: bars on a terminal; elsewhere a line at each start and end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from tqdm import tqdm

#: Silent unless somebody listens, as the `foley` command does; a worker and the Python API do not.
STEPS = logging.getLogger("foley.steps")


class StepLines(tqdm):  # type: ignore[type-arg]
    """In place of a bar that nobody would see: a log line at a step's start, and one at its end."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        super().__init__(total=total, disable=True)  # a disabled bar draws and counts nothing
        self._what, self._unit, self._started = what, unit, perf_counter()
        STEPS.info("%s: started%s", what, "" if total is None else f", {self._counted(total)}")

    def update(self, n: float | None = 1) -> None:
        """Count; nothing is drawn."""
        self.n += n or 0

    def __exit__(self, kind: object, *_: object) -> None:
        """Say what was done in the step, and how long it took."""
        done = self._counted(int(self.n)) if kind is None else f"stopped at {self._counted(self.n)}"
        STEPS.info("%s: %s in %.1f s", self._what, done, perf_counter() - self._started)

    def _counted(self, count: float) -> str:
        return f"{int(count)} {self._unit}{'' if count == 1 else 's'}"


def bar(what: str, total: int | None = None, unit: str = "step") -> tqdm[Any]:
    """The progress of one step of the work, to be used as a context manager."""
    if not sys.stderr.isatty():
        return StepLines(what, total, unit)
    return tqdm(total=total, desc=f"{what:<16}", unit=unit, dynamic_ncols=True, smoothing=0.1)


@contextmanager
def step(what: str) -> Generator[None]:
    """A piece of work that is one step."""
    with bar(what, 1) as progress:
        yield
        progress.update()


def follow(progress: tqdm[Any]) -> Callable[[int, int], None]:
    """A function of (done, total) that moves the bar there."""

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)

    return show
