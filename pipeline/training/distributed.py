"""Training in several processes, started by torchrun; Accelerate tells each of them who it is.

    torchrun --standalone --nproc_per_node 2 -m pipeline.training.distributed REQUEST.json

Accelerate's own launcher would start a single process where there is no GPU, and its port is fixed,
so that two trainings on one machine collide. The main process prints one JSON line a step. Weights
are those that one process would train, to rounding. Where the request says `attached`, the
processes end when their standard input does, and with them the launcher.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import torch

from model.presets.preset import Preset
from model.training.trainer import Losses, Progress
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from warehouse import FoleyError, Warehouse
from warehouse.files import scratch_folder


def train_in_processes(
    count: int, data: DatasetFeatures, on_progress: Callable[[Progress], None], seed: int = 0
) -> Checkpoint:
    """Train as :func:`pipeline.training.train.train` does, in `count` processes, one a GPU if any.

    Raises FoleyError for a count that does not suit, and with the reason that was given if a
    process fails. All of them end when this call does, also where its process is killed.
    """
    shares = data.preset.train.micro_batches
    if shares % count:
        raise FoleyError(f"{shares} micro-batches a step cannot be shared by {count} processes")
    if 0 < (cards := torch.cuda.device_count()) < count:
        raise FoleyError(f"{count} processes were asked for, one a GPU, but there are {cards}")
    data.split("train")  # joined before, because processes wait for each other only so long
    request = {
        "home": str(data.wh.home),
        "dataset": data.dataset.version,
        "fingerprints": dict(data.fingerprints),
        "seed": seed,
        "subset": data.subset,
        "preset": data.preset.model_dump(mode="json"),
        "attached": True,
    }
    with scratch_folder(data.wh.tmp) as folder, (folder / "log").open("w+") as log:
        file = folder / "request.json"
        file.write_text(json.dumps(request))
        launcher = f"-m torch.distributed.run --standalone --nproc_per_node {count}"
        command = [*launcher.split(), "-m", "pipeline.training.distributed", str(file)]
        id = _run([sys.executable, *command], count, log, on_progress)
        log.seek(0)
        lines = log.read().strip().splitlines()
    checkpoint = find_checkpoint(data.wh, id) if id else None
    if checkpoint is None:
        raise FoleyError(f"training in {count} processes failed: {_reason(lines)}")
    return replace(checkpoint, trained=True)


def _run(
    command: list[str], count: int, log: IO[str], on_progress: Callable[[Progress], None]
) -> str | None:
    """Run the launcher in a session of its own and pass on progress; returns the checkpoint id."""
    id = None
    cores = max(1, len(os.sched_getaffinity(0)) // count)  # of each process
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # held open as long as this process lives: see _end_with_input
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
            if "checkpoint" in event:
                id = event["checkpoint"]
            else:
                losses = event.pop("validation")
                on_progress(Progress(**event, validation=Losses(**losses) if losses else None))
        child.wait()
    finally:
        if child.poll() is None:
            # it ends its processes, which are in sessions of their own; what is on disk is whole
            child.terminate()
            child.wait()
    return id


def _reason(lines: list[str]) -> str:
    """The line that says most: the error of ours, or the last of any error."""
    errors = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return (errors or lines or ["no reason was given"])[0].strip()


def _end_with_input() -> None:
    """End this process when its standard input does, which who asked for the training holds open.

    So a killed run's processes leave their device to the run that is started in its place.
    """
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main(file: Path) -> None:
    """One of the processes."""
    request = json.loads(file.read_text())
    if request.get("attached"):  # else it was started by hand
        threading.Thread(target=_end_with_input, daemon=True).start()
    from accelerate import PartialState

    from pipeline.training.train import train

    processes = PartialState(cpu=not torch.cuda.is_available())
    assert processes.num_processes == int(os.environ["WORLD_SIZE"])
    wh = Warehouse(request["home"])

    def report(progress: Progress) -> None:
        print(json.dumps(asdict(progress)), flush=True)

    data = DatasetFeatures(
        wh,
        wh.dataset(request["dataset"]),
        Preset.model_validate(request["preset"]),
        request["fingerprints"],
        request["subset"],
    )
    done = train(data, report, request["seed"], processes)
    if processes.is_main_process:
        print(json.dumps({"checkpoint": done.id}), flush=True)
    processes.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
