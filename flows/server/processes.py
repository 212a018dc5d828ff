"""Child processes: they end with their parent, and in bounded time where they are told to."""

import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from warehouse.errors import clear_os_errors


def start(
    module: Iterable[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Collection[int] = (),
    outlives_us: bool = False,
) -> psutil.Popen:
    """Start `python -m MODULE ARGUMENT...`, in a session of its own, with a log file.

    Ctrl-C in a terminal does not reach it; unless it `outlives_us` it gets SIGTERM when this
    process ends in any way. `env` is on top of this process' own. Raises FoleyError when its log
    cannot be written.
    """
    # not by `preexec_fn`: Python code between fork and exec crashes now and then where there are
    # threads, or libraries with handlers of fork
    mortal = () if outlives_us else ("flows.running.signals", str(os.getpid()))
    with clear_os_errors(f"write {log}"), log.open("ab") as output:
        return psutil.Popen(
            [sys.executable, "-m", *mortal, *module],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=pass_fds,
            env=os.environ | (env or {}),
        )


def end(processes: Iterable[psutil.Process], seconds: float) -> None:
    """End processes, all at once: politely, and after `seconds` by force."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, seconds)
