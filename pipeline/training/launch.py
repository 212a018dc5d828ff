"""Starts the processes that train together, on one machine or on several, by PyTorch's launcher.

On several machines each is given the same command: the launchers meet at one address.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import torch

from model.training.trainer import Progress
from model.training.validation import Losses
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from pipeline.training.distributed import LAST
from pipeline.training.parent import Parent
from warehouse import FoleyError
from warehouse.files import Json, identity_hash, scratch_folder


@dataclass(frozen=True)
class Layout:
    """How many processes train together, and where."""

    processes: int = 1  # on each host, one a GPU if there are any
    hosts: int = 1  # machines, which share the home folder
    # HOST:PORT at which they meet, on one of them; none where there is one
    rendezvous: str | None = None

    @property
    def count(self) -> int:
        """All processes."""
        return self.processes * self.hosts

    def check(self, micro_batches: int) -> None:
        """Raises FoleyError where it cannot be: a process without work or device, no address."""
        if micro_batches % self.count:
            raise FoleyError(
                f"{micro_batches} micro-batches a step cannot be shared by {self.count} processes"
            )
        if 0 < (cards := torch.cuda.device_count()) < self.processes:
            raise FoleyError(
                f"{self.processes} processes were asked for, one a GPU, but there are {cards}"
            )
        if self.hosts > 1 and not self.rendezvous:
            raise FoleyError(f"{self.hosts} hosts need a rendezvous, the HOST:PORT of one of them")

    def options(self, name: str) -> list[str]:
        """Those of torchrun; only launchers of the same name meet."""
        where = "--standalone"
        if self.hosts > 1:
            where = f"--nnodes {self.hosts} --rdzv_backend c10d --rdzv_id {name}"
            where += f" --rdzv_endpoint {self.rendezvous}"
        return f"{where} --nproc_per_node {self.processes}".split()


@dataclass
class _Heard:
    """What the processes said of their end."""

    checkpoint: str | None = None
    trained: bool = True  # False where it was there already
    stopped: int | None = None  # step after which they were told to stop
    errors: list[Json] = field(default_factory=list[Json])

    @property
    def end(self) -> bool:
        """Whether any of them ended."""
        return bool(self.checkpoint or self.errors) or self.stopped is not None


def train_in_processes(
    layout: Layout,
    data: DatasetFeatures,
    on_progress: Callable[[Progress], None],
    seed: int = 0,
    parent: Parent | None = None,
) -> Checkpoint:
    """Train as :func:`pipeline.training.train.train` does, in several processes.

    With several hosts each of them calls this, and the one of the first process hears of progress.
    All processes end when this call does, also where its process is killed.

    Raises:
        FoleyError: the layout does not suit; a process failed, or was told to stop, on this host or
            on another. The message has the reason that was given.
    """
    layout.check(data.preset.train.micro_batches)
    data.split("train")  # joined before, because processes wait for each other only so long
    data.validation()
    request = {
        "home": str(data.wh.home),
        "dataset": data.dataset.version,
        "fingerprints": dict(data.fingerprints),
        "seed": seed,
        "parent": str(parent.checkpoint.path) if parent else None,
        "parent_optimiser": parent is not None and parent.optimiser,
        "subset": data.subset,
        "ablation": data.ablation,
        "preset": data.preset.model_dump(mode="json"),
        "attached": True,
    }
    with scratch_folder(data.wh.tmp) as folder, (folder / "log").open("w+") as log:
        file = folder / "request.json"
        file.write_text(json.dumps(request))
        command = ["-m", "torch.distributed.run", *layout.options(identity_hash(request))]
        command += ["-m", "pipeline.training.distributed", str(file)]
        heard = _run([sys.executable, *command], layout.processes, log, on_progress)
        log.seek(0)
        lines = log.read().strip().splitlines()
    checkpoint = find_checkpoint(data.wh, heard.checkpoint) if heard.checkpoint else None
    if checkpoint is None:
        raise FoleyError(_failure(layout, heard, lines))
    return replace(checkpoint, trained=heard.trained)


def _run(
    command: list[str], processes: int, log: IO[str], on_progress: Callable[[Progress], None]
) -> _Heard:
    """Run the launcher in a session of its own and pass on progress."""
    heard = _Heard()
    cores = max(1, len(os.sched_getaffinity(0)) // processes)  # of each process
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # held open as long as this process lives: distributed.py ends by it
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
        env={"OMP_NUM_THREADS": str(cores)} | os.environ,
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if "step" not in event and not heard.end:
                _end(child)  # its processes end by themselves; it may wait for other hosts
            if "error" in event:
                heard.errors.append(event)
            elif "step" in event:
                losses = event.pop("validation")
                on_progress(Progress(**event, validation=Losses(**losses) if losses else None))
            else:
                heard.checkpoint = event.get("checkpoint", heard.checkpoint)
                heard.trained = event.get("trained", heard.trained)
                heard.stopped = event.get("stopped", heard.stopped)
    finally:
        if child.poll() is None:
            child.terminate()  # it tells its processes, which keep their state
            _end(child)
        child.wait()
    return heard


def _end(child: subprocess.Popen[str]) -> None:
    """Have the launcher end in time: a host that is gone keeps it for minutes."""
    for seconds, end in ((LAST, child.terminate), (2 * LAST, child.kill)):
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()


def _failure(layout: Layout, heard: _Heard, lines: Sequence[str]) -> str:
    """One line on why there is no checkpoint, and what to do."""
    what = f"training in {layout.count} processes"
    again = "start it again" + (" on every host" if layout.hosts > 1 else "")
    if heard.stopped is not None:
        return f"{what} was told to stop after step {heard.stopped}: {again}, and it goes on"
    own = [event["error"] for event in heard.errors if not event["lost"]]
    if own:
        return f"{what} failed: {own[0]}"
    if heard.errors:
        return f"{what} ended because one of them was lost: {again}, and it goes on from its state"
    if any("RendezvousTimeout" in line or "RendezvousConnection" in line for line in lines):
        return f"{layout.hosts} hosts did not meet at {layout.rendezvous}: {again}, the same there"
    errors = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    reason = (errors or lines or ["no reason was given"])[0].strip()
    return f"{what} failed: {reason}"
