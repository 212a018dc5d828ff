"""Libraries print warnings, bars and greetings; a command prints its result and its steps."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def quietly() -> Generator[None]:
    """Keep standard output for results and standard error for steps; libraries print to neither."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _show_steps()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def _show_steps() -> None:
    """Write the lines that stand for bars (flows/display/progress_bars.py) to standard error."""
    from flows.display.progress_bars import STEPS

    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    STEPS.handlers = [lines]
    STEPS.propagate = False
    STEPS.setLevel(logging.INFO)
