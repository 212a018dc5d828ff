"""For stages that read clips one by one, in worker processes, ahead of the model."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pipeline.media import MediaError, media_workers
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Failed, Outcome, Passed

T = TypeVar("T")


def reading(read: Callable[..., T], *how: object) -> Callable[[Clip], partial[T]]:
    """A job for each clip: `read(path, *how)`, of a module's function and picklable arguments."""
    return lambda clip: partial(read, Path(clip["path"]), *how)


def read_each(
    clips: Sequence[Clip], job: Callable[[Clip], partial[T]], judge: Callable[[T], Outcome]
) -> list[Outcome]:
    """One outcome a clip: what `judge` says of its job's result, or that a MediaError failed it."""
    workers = media_workers()
    outcomes: list[Outcome] = []
    for media in workers.map((job(clip) for clip in clips), ahead=4 * workers.count):
        failed = isinstance(media, MediaError)
        outcomes.append(Failed.from_exception(media) if failed else judge(media))
        advance(1)
    return outcomes


def read_then_run(
    clips: Sequence[Clip],
    job: Callable[[Clip], partial[T]],
    run: Callable[[Sequence[tuple[Clip, Any]]], Sequence[Passed]],
    chunk: int,
    prepare: Callable[[T], object] | None = None,
) -> list[Outcome]:
    """One outcome a clip: `failed` where its media cannot be read, else what `run` gives for it.

    `job(clip)` is run by media workers while `run` works on the clips before, and what it gives
    goes through `prepare` in threads of this process, where there is such a step. `run` gets at
    most `chunk` clips with their media at a time, and little more than that wait decoded: the media
    of a whole batch is never held at once. The first parts are smaller, 1, 2, 4 and so on, so that
    the model need not wait for a whole chunk to begin.
    """
    workers = media_workers()
    media = workers.map((job(clip) for clip in clips), ahead=chunk + workers.count, then=prepare)
    outcomes: list[Outcome] = []
    size = 1
    while len(outcomes) < len(clips):
        part = list(islice(media, size))
        pairs = zip(clips[len(outcomes) : len(outcomes) + len(part)], part, strict=True)
        ready = [(clip, value) for clip, value in pairs if not isinstance(value, MediaError)]
        passed = iter(run(ready) if ready else [])
        outcomes += [
            Failed.from_exception(value) if isinstance(value, MediaError) else next(passed)
            for value in part
        ]
        size = min(2 * size, chunk)
        advance(len(part))
    return outcomes
