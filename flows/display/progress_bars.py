"""Progress bars on a terminal; nothing where standard error is not one, such as on a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm


def bar(what: str, total: int | None = None, unit: str = "step") -> tqdm[Any]:
    """A bar for one step of the work, to be used as a context manager."""
    return tqdm(
        total=total, desc=f"{what:<16}", unit=unit, disable=None, dynamic_ncols=True, smoothing=0.1
    )


def follow(progress: tqdm[Any]) -> Callable[[int, int], None]:
    """A function of (done, total) that moves the bar there."""

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done - progress.n)

    return show
