"""Helpers for stages that read each clip by itself and then run a model over those that could be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.media import MediaError
from pipeline.stage import Clip, Failed, Outcome, Passed

T = TypeVar("T")


def read_then_run(
    clips: Sequence[Clip],
    read: Callable[[Clip], T],
    run: Callable[[Sequence[T]], Sequence[Passed]],
    chunk: int,
) -> list[Outcome]:
    """One outcome a clip: `failed` where its media cannot be read, else what `run` gives for it.

    `run` gets at most `chunk` clips at a time, so that decoded media of a whole batch is never held at once.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(clips), chunk):
        found: list[T | Failed] = []
        for clip in clips[start : start + chunk]:
            try:
                found.append(read(clip))
            except MediaError as error:
                found.append(Failed.from_exception(error))
        ready = [value for value in found if not isinstance(value, Failed)]
        passed = iter(run(ready) if ready else [])
        outcomes += [value if isinstance(value, Failed) else next(passed) for value in found]
    return outcomes
