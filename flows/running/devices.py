"""One run a device: a run takes the GPUs that it uses, and others take other ones or wait."""

import os
import re
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import parent_process
from pathlib import Path

from warehouse.errors import FoleyError
from warehouse.files import file_lock, make_folder

VISIBLE = "CUDA_VISIBLE_DEVICES"
_LOOK_EVERY = 0.5  # seconds
#: What this process took: CUDA reads the variable once, so later flows of the process must have
#: the same devices.
_claimed: list[str] = []
#: That of this worker process, and the lock by which it is kept.
_own: list[str] = []
_kept = ExitStack()


def devices() -> list[str]:
    """Devices of CUDA_VISIBLE_DEVICES, or all that NVIDIA's driver shows."""
    names = os.environ.get(VISIBLE)
    if names is None:
        return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


@contextmanager
def claim_devices(
    count: int, on_wait: Callable[[str], object], device: str = "auto"
) -> Generator[list[str]]:
    """Hold `count` devices for the enclosed work, and show CUDA no others; none where none are.

    Where too few are free it says so once, by `on_wait`, and waits. A device is held by a lock on
    this machine, which the system frees however its holder ends. With `device` cuda:N it is that
    one, of those that there are; with cpu CUDA is shown none. Raises FoleyError where there are
    fewer devices than asked for.
    """
    usable = chosen_devices(device)
    if device == "cpu":
        with _shown([]):
            yield []
        return
    if not count or not usable:
        yield []
        return
    if len(usable) < count:
        raise FoleyError(
            f"{count} devices are asked for, and there are {len(usable)}: {', '.join(usable)}"
        )
    same_again = count <= len(_claimed) and set(_claimed) <= set(usable)
    with _locked(list(_claimed) if same_again else usable, count, on_wait) as claimed:
        _claimed[:] = claimed
        with _shown(claimed):
            yield claimed


def claimed_name(device: str) -> str:
    """What CUDA calls a device that is claimed: it is shown no other one than that of cuda:N."""
    return device.partition(":")[0]


def settle_on_one(workers: int) -> None:
    """In a worker process of a run with several devices: show CUDA one of them, from now on.

    It is one that fewer than `workers` others settled on, held by a lock while the process lives.
    """
    names = devices()
    if parent_process() is None or not (_own or len(names) > 1):
        return
    if not _own:
        places = [(name, place) for place in range(workers) for name in names]
        free = (n for n, i in places if _kept.enter_context(file_lock(_lock(f"{n}-{i}"), False)))
        _own.append(next(free, names[os.getpid() % len(names)]))
    os.environ[VISIBLE] = _own[0]  # each task brings the environment of the process above


def chosen_devices(device: str) -> list[str]:
    """The devices that a name stands for: auto, cpu, cuda or cuda:N.

    Raises FoleyError for another name, and for a GPU that this machine does not have.
    """
    usable = devices()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise FoleyError(f"device {device!r}: give auto, cpu, cuda or cuda:N")
    if not device.startswith("cuda"):
        return [] if device == "cpu" else usable
    number = int(device.partition(":")[2] or 0)
    if number >= len(usable):
        raise FoleyError(f"device {device!r}: this machine has {len(usable) or 'no'} CUDA devices")
    return usable[number : number + 1] if ":" in device else usable


@contextmanager
def _shown(names: Sequence[str]) -> Generator[None]:
    """Show CUDA these devices alone."""
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(names)
    try:
        yield
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
