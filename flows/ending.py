"""How a run that is told to end does so in time: cancelled by a person, or because its worker is going."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

#: Seconds from the signal to the end, whatever the process is doing; a person who cancels is promised 10.
PATIENCE = 4.0


@contextmanager
def ends_in_time() -> Generator[None]:
    """Have the kernel end this process PATIENCE seconds after a SIGTERM that comes while in here.

    Prefect raises an exception for the signal, which is the polite end; but a model or a library may be in the middle
    of something. Prefect's own handler has to stay (it answers the worker only while it is installed), so the signal is
    seen by the side: Python writes its number to a pipe. A commit that is not whole then is not there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


@contextmanager
def handler_kept() -> Generator[None]:
    """Restore the handler of SIGTERM where a library puts its own (Ray's exits, which Prefect takes for a crash)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(reading: int) -> None:
    with suppress(OSError), os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] == signal.SIGTERM:
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # SIGALRM, which nobody catches, ends the process
