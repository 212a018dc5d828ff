"""One of several processes that train together, as torchrun starts it on each machine.

    torchrun --standalone --nproc_per_node 2 -m pipeline.training.distributed REQUEST.json

`pipeline/training/launch.py` writes the request. (Accelerate's own launcher would start a single
process where there is no GPU, and its port is fixed, so that two trainings on one machine collide;
it tells each process who it is.) The main process prints one JSON line a step, and each of them one
about its end. Weights are those that one process would train, to rounding.

SIGTERM, to any of them on any machine, stops all after the same step, and the main one keeps its
state. So does the end of standard input where the request says `attached`: it is held open by who
asked for the training, so that a killed run's processes leave their device to the next.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch

from model.presets.preset import Preset
from model.training.processes import Processes
from model.training.trainer import Progress
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import choose_checkpoint
from pipeline.training.parent import Parent
from warehouse import FoleyError, Warehouse
from warehouse.files import Json

#: Seconds from SIGTERM on: to end the step that all are at, and until this process is no more.
POLITE, LAST = 4.0, 9.0
#: How long one process waits for another, which may be measuring or reading.
_WAIT = timedelta(minutes=30)


def main(file: Path) -> None:
    """One of the processes."""
    told = _told_to_stop()
    request = json.loads(file.read_text())
    if request.get("attached"):  # else it was started by hand
        threading.Thread(target=_stop_with_input, daemon=True).start()
    preset = Preset.model_validate(request["preset"])
    world, shares = int(os.environ["WORLD_SIZE"]), preset.train.micro_batches
    if shares % world:
        sys.exit(f"FoleyError: {shares} micro-batches a step cannot be shared by {world} processes")
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_WAIT)
    assert state.num_processes == world
    processes = Processes(state.process_index, world, told)
    try:
        done = _train(request, preset, processes)
    except Exception as error:
        lost = _is_of_the_connection(error)
        _say({"error": " ".join(str(error).split()), "lost": lost})
        if lost or isinstance(error, FoleyError):
            sys.exit(1)
        raise
    if state.is_local_main_process:
        _say(done)
    state.destroy_process_group()


def _train(request: Json, preset: Preset, processes: Processes) -> dict[str, object]:
    """The checkpoint's id, or the step after which all were told to stop."""
    from pipeline.training.steps import StoppedError
    from pipeline.training.train import train

    wh = Warehouse(request["home"])
    dataset, fingerprints = wh.dataset(request["dataset"]), request["fingerprints"]
    data = DatasetFeatures(
        wh, dataset, preset, fingerprints, request["subset"], ablation=request["ablation"]
    )

    def report(progress: Progress) -> None:
        _say(asdict(progress))

    parent = None
    if request["parent"]:
        chosen = choose_checkpoint(wh, data.preset, request["parent"])
        parent = Parent(chosen, request["parent_optimiser"])
    try:
        done = train(data, report, request["seed"], processes, parent)
    except StoppedError as stopped:
        processes.wait()  # the launcher ends all when the first of them ends
        return {"stopped": stopped.step}
    return {"checkpoint": done.id, "trained": done.trained}


def _say(event: Json) -> None:
    print(json.dumps(event), flush=True)


def _is_of_the_connection(error: Exception) -> bool:
    """Whether another process went away in the middle of what they do together."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _told_to_stop() -> Callable[[], bool]:
    """Have SIGTERM end this process in time, whatever it is doing, and its state kept if it can.

    First the training is asked, then the main thread interrupted, then the process is no more. The
    signal is seen in a thread, by the pipe that Python writes its number to, because the main one
    may be in a library.
    """
    told = threading.Event()
    reading, writing = os.pipe()

    def watch() -> None:
        while os.read(reading, 1) != bytes([signal.SIGTERM]):
            pass
        told.set()
        time.sleep(POLITE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(LAST - POLITE)
        os._exit(1)

    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    threading.Thread(target=watch, daemon=True).start()
    return told.is_set


def _stop_with_input() -> None:
    """Stop when standard input ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
