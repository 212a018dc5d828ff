"""How far a batch is: stages advance, and whoever shows it listens in the same thread."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


def advance(clips: int) -> None:
    """Say that so many more clips of the batch are through."""
    if listener := _listener.get():
        listener(clips)


@contextmanager
def progress_to(listener: Callable[[int], None] | None) -> Generator[None]:
    """Pass the progress of the enclosed work on to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
