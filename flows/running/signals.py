"""When a run ends: in time where it is told to, and not because its worker is gone."""

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

#: Seconds from the signal to the end, whatever the process is doing; a person who cancels is
#: promised 10. A training at full size keeps 3 GB of state meanwhile.
PATIENCE = 8.0


@contextmanager
def ends_in_time() -> Generator[None]:
    """Have the kernel end this process PATIENCE seconds after a SIGTERM that comes while in here.

    Prefect raises an exception for the signal, which is the polite end; but a model or a library
    may be in the middle of something. Prefect's own handler has to stay (it answers the worker only
    while it is installed), so the signal is seen by the side: Python writes its number to a pipe. A
    commit that is not whole then is not there.
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


@cache
def outlive_the_worker() -> None:
    """Have this run of a worker go on where the worker is killed: what it prints then goes nowhere.

    Its output is a pipe to the worker, and Prefect's console (rich) ends the process where nobody
    reads. The log goes to Prefect's server by itself. A line in the very milliseconds of the
    worker's death still ends it: it is started again then. A run on the command line does end so:
    its reader has enough, as `head` has.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        threading.Thread(target=_drop_unread, name=_drop_unread.__name__, daemon=True).start()


@contextmanager
def handler_kept() -> Generator[None]:
    """Restore the handler of SIGTERM where a library puts its own.

    Ray's exits, which Prefect takes for a crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have Linux signal this process when its parent is gone, so that nothing outlives it."""
    ctypes.CDLL(None).prctl(1, number)


def _watch(reading: int) -> None:
    with suppress(OSError), os.fdopen(reading, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] == signal.SIGTERM:
                # SIGALRM, which nobody catches, ends the process
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def _drop_unread() -> None:
    for output in (1, 2):  # one worker reads both
        reader = select.poll()
        reader.register(output, 0)  # that nobody reads any more is told without being asked for
        reader.poll()
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), output)


def main() -> None:
    """`python -m flows.running.signals PARENT MODULE ARGUMENT...`: the module, as a mortal child.

    It gets SIGTERM when its parent ends in any way; PARENT is that one's process id.
    """
    parent, *module = sys.argv[1:]
    end_with_parent(signal.SIGTERM)
    if os.getppid() == int(parent):  # else it was gone before the kernel was told
        os.execv(sys.executable, [sys.executable, "-m", *module])  # noqa: S606 (none is wanted)


if __name__ == "__main__":
    main()
