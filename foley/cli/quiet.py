"""Libraries print warnings, bars and greetings; a command prints its result and its steps."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def quietly() -> Generator[None]:
    """Keep standard output for results and standard error for steps; libraries print to neither."""
    _show_steps()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def keep_interrupts() -> None:
    """Have Ctrl-C count also where it comes during a `__del__`, where Python drops it."""

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # from another thread and a moment later: here it would be dropped again
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            sys.__unraisablehook__(dropped)

    sys.unraisablehook = hook


@contextmanager
def ended_by_sigterm() -> Generator[None]:
    """Have SIGTERM end this as an exception does, which cleans up, with exit code 143."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_steps() -> None:
    """Write what our own loggers say (steps, in place of bars, among it) to standard error."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("foley")
    ours.handlers = [lines]
    ours.propagate = False
    ours.setLevel(logging.INFO)
