"""How far a batch is, for who shows it.

Stages tick, and whoever listens in the same thread hears it.
"""

from __future__ import annotations

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
    """Have the ticks of the enclosed work heard."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
