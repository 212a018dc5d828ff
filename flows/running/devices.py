"""One run a device: a run takes the GPUs that it uses, and others take other ones or wait."""

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
#: What this process took: CUDA reads the variable once, so later flows of the process must have
#: the same devices.
_claimed: list[str] = []


def devices() -> list[str]:
    """Devices of CUDA_VISIBLE_DEVICES, or all that NVIDIA's driver shows."""
    names = os.environ.get(VISIBLE)
    if names is None:
        return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


@contextmanager
def claim_devices(count: int, on_wait: Callable[[str], object]) -> Generator[list[str]]:
    """Hold `count` devices for the enclosed work, and show CUDA no others; none where none are.

    Where too few are free it says so once, by `on_wait`, and waits. A device is held by a lock on
    this machine, which the system frees however its holder ends. Raises FoleyError where there are
    fewer devices than asked for.
    """
    usable = devices()
    if not count or not usable:
        yield []
        return
    if len(usable) < count:
        raise FoleyError(
            f"{count} devices are asked for, and there are {len(usable)}: {', '.join(usable)}"
        )
    before = os.environ.get(VISIBLE)
    same_again = count <= len(_claimed) and set(_claimed) <= set(usable)
    with _locked(list(_claimed) if same_again else usable, count, on_wait) as claimed:
        _claimed[:] = claimed
        os.environ[VISIBLE] = ",".join(claimed)
        try:
            yield claimed
        finally:
            os.environ.pop(VISIBLE)
            os.environ |= {} if before is None else {VISIBLE: before}


@contextmanager
def _locked(
    names: Sequence[str], count: int, on_wait: Callable[[str], object]
) -> Generator[list[str]]:
    """Lock `count` of these devices: all at once or none, so that no two runs hold half each."""
    waiting = False
    while True:
        with ExitStack() as locks:
            held: list[str] = []
            for name in names:
                if len(held) < count and locks.enter_context(file_lock(_lock(name), wait=False)):
                    held.append(name)
            if len(held) == count:
                yield held
                return
        if not waiting:
            devices = ", ".join(names)
            on_wait(f"no {count} of the devices {devices} are free: waiting for another run to end")
            waiting = True
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
