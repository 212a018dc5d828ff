"""One run a device: a run takes as many of this machine's GPUs as it uses.

Other runs take other ones, or wait.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from warehouse.errors import FoleyError
from warehouse.files import file_lock, make_folder

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOOK_EVERY = 0.5  # seconds
#: What this process took: CUDA reads the variable once, so later flows of the process must have the
#: same devices.
_taken: list[str] = []


def devices() -> list[str]:
    """Devices that this process may use.

    Those of CUDA_VISIBLE_DEVICES, or all that NVIDIA's driver shows.
    """
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


@contextmanager
def claim_devices(count: int, waits: Callable[[str], object]) -> Generator[list[str]]:
    """Take `count` devices for the enclosed work and show CUDA no others; none are taken where there are none.

    Where too few are free it says so once, by `waits`, and waits. A device is held by a lock on
    this machine, which the system frees however its holder ends. Raises FoleyError where there are
    fewer devices than asked for.
    """
    known = devices()
    if not count or not known:
        yield []
        return
    if len(known) < count:
        raise FoleyError(
            f"{count} devices are asked for, and there are {len(known)}: {', '.join(known)}"
        )
    before = os.environ.get(VISIBLE)
    again = _taken if count <= len(_taken) and set(_taken) <= set(known) else known
    with _wait(again, count, waits) as held:
        _taken[:] = held
        os.environ[VISIBLE] = ",".join(held)
        try:
            yield held
        finally:
            os.environ.pop(VISIBLE)
            os.environ |= {} if before is None else {VISIBLE: before}


@contextmanager
def _wait(names: Sequence[str], count: int, waits: Callable[[str], object]) -> Generator[list[str]]:
    """Hold locks of `count` of these devices.

    All at once or none, so that two who wait never hold half each.
    """
    said = False
    while True:
        with ExitStack() as locks:
            held: list[str] = []
            for name in names:
                if len(held) < count and locks.enter_context(file_lock(_lock(name), wait=False)):
                    held.append(name)
            if len(held) == count:
                yield held
                return
        if not said:
            waits(
                f"no {count} of the devices {', '.join(names)} are free: waiting for another run to end"
            )
            said = True
        time.sleep(_LOOK_EVERY)


def _lock(device: str) -> Path:
    folder = make_folder(Path(tempfile.gettempdir()) / f"foley-{os.getuid()}")
    return folder / f"device-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"


@contextmanager
def all_cores() -> Generator[None]:
    """Let torch use every core, for training and sampling: these run alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
