"""What a person watches while a training runs, gathered over a few steps."""

import resource
from collections.abc import Mapping
from time import perf_counter

import numpy as np
import torch

from model.training.cost import micro_batch_cost
from model.training.trainer import NOISE_LEVELS, Progress
from pipeline.training.batches import DatasetFeatures

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
