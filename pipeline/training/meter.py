"""What a person watches while a training runs: figures of a few steps, and where they go."""

import resource
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.presets.settings import load_class
from model.training.cost import micro_batch_cost
from model.training.trainer import NOISE_LEVELS, Progress
from pipeline.training.batches import DatasetFeatures
from warehouse import FoleyError

PROJECT = "foley-control"  # under which trackers list trainings
#: Dense bf16 FLOPs a second of devices, by a part of their names (NVIDIA's data sheets).
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


class Meter:
    """The figures of the steps since they were last asked for."""

    def __init__(self, flops: float, peak: float | None) -> None:
        """Take the FLOPs of a clip, and what the devices can do a second, where that is known."""
        self._flops, self._peak = flops, peak
        self._levels = np.zeros((NOISE_LEVELS, 2))  # summed losses and clips of each
        self._at, self._waited = perf_counter(), 0.0

    def add(self, progress: Progress) -> None:
        """Note a step."""
        self._levels += np.asarray(progress.levels)

    def figures(self, progress: Progress, waited: float) -> Mapping[str, float]:
        """Figures by name, as of this step; pauses since they were last asked for are included.

        Args:
            progress: the last step.
            waited: seconds that were waited for data since the training began here.
        """
        now, clips = perf_counter(), float(self._levels[:, 1].sum())
        found = {name: getattr(progress, name) for name in ("loss", "grad_norm", "learning_rate")}
        for i, (loss, count) in enumerate(self._levels.tolist()):
            if count:
                times = f"{i / NOISE_LEVELS:.1f}-{(i + 1) / NOISE_LEVELS:.1f}"
                found[f"loss_at_noise/{times}"] = loss / count
        found["clips_per_second"] = clips / (now - self._at)
        found["tflops_per_second"] = self._flops * found["clips_per_second"] / 1e12
        if self._peak:
            found["mfu"] = self._flops * found["clips_per_second"] / self._peak
        found["data_wait_share"] = (waited - self._waited) / (now - self._at)
        found["peak_memory_gb"] = _peak_memory() / 1e9
        self._levels[:] = 0
        self._at, self._waited = now, waited
        return found


def _peak_memory() -> int:
    """Most bytes that this process held so far: of its GPU, or else of memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def clip_flops(data: DatasetFeatures) -> float:
    """FLOPs that a training clip of mean length takes, forward and backward."""
    features, canvas = data.split("train"), data.canvas
    latents = canvas.length(round(float(features.column("n_latents").mean())))
    _, cells, _ = features.columns["video_tokens"].shape
    one = data.preset.model_copy(
        update={"train": data.preset.train.model_copy(update={"batch_size": 1})}
    )
    return micro_batch_cost(one, latents, (canvas.frames(latents), cells)).flops


def device_peak() -> float | None:
    """Dense bf16 FLOPs a second of a device of this machine, where it is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


class Curves:
    """Figures by step, in HOME/checkpoints/<id>/tensorboard and in a tracker of Accelerate's.

    Nothing is written, and no tracker started, before the first figure.
    """

    def __init__(self, folder: Path, tracker: str | None = None) -> None:
        """Take the training's folder, whose name is its id, and the name of a tracker.

        Raises FoleyError where there is no such tracker, or its library is not installed.
        """
        self.folder = folder
        self.first = 1  # step that this run begins with
        self._kind = None if tracker is None else tracker_class(tracker)

    @cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.first)

    @cached_property
    def _tracker(self) -> Any:
        if self._kind is None:
            return None
        place = [str(self.folder)] if self._kind.requires_logging_directory else []
        tracker: Any = self._kind(PROJECT, *place)
        tracker.start()
        tracker.store_init_configuration({"training": self.folder.name, "first_step": self.first})
        return tracker

    def add(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name, as of a step."""
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        self._track(figures, step)

    def add_together(self, name: str, figures: Mapping[str, float], step: int) -> None:
        """Figures that are looked at in one picture."""
        self._board.add_scalars(name, dict(figures), step)
        self._track({f"{name}/{key}": value for key, value in figures.items()}, step)

    def _track(self, figures: Mapping[str, float], step: int) -> None:
        if self._tracker is not None:
            self._tracker.log(dict(figures), step=step)

    def add_sound(self, name: str, mono: Tensor, step: int, rate: int) -> None:
        """A sound [1, S], with a player; TensorBoard alone has it."""
        self._board.add_audio(name, mono, step, rate)

    def flush(self) -> None:
        """Write what TensorBoard has not been given yet."""
        self._board.flush()

    def close(self) -> None:
        """Write the rest, and end the tracker's run, where anything was begun."""
        if "_board" in vars(self):
            self._board.close()
        if vars(self).get("_tracker") is not None:
            self._tracker.finish()


def tracker_class(name: str) -> Any:
    """A tracker by its name in accelerate.tracking, such as wandb or mlflow, or `module:Class`.

    Raises FoleyError where there is none of that name, or its library is not installed.
    """
    if ":" in name:
        return load_class(name)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = [str(kind) for kind in get_available_trackers()]
    if name not in there:
        known = ", ".join(LOGGER_TYPE_TO_CLASS)
        raise FoleyError(
            f"train.tracker = {name}: choose one of {known}, install its library (installed: "
            f"{', '.join(there)}), or give a GeneralTracker of your own as module:Class"
        )
    return LOGGER_TYPE_TO_CLASS[name]
