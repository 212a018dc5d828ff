"""What a training would take, before anything is loaded: clips, memory, disk, hours."""

import shutil
from dataclasses import dataclass

import numpy as np
import torch

from model.training.cost import MicroBatchCost, micro_batch_cost
from pipeline.stages.memory import memory_here
from pipeline.training.batches import DatasetFeatures, epoch_facts, epoch_text, training_epoch
from pipeline.training.launch import Layout
from pipeline.training.meter import device_peak
from warehouse import FoleyError
from warehouse.files import Json

_GB = 1e9
_USED = 0.4  # share of them that is counted on


@dataclass(frozen=True)
class Estimate:
    """What a training would take."""

    data: DatasetFeatures
    layout: Layout
    epoch: Json  # what an epoch takes of the clips
    batches: int  # micro-batches of an epoch
    seconds: float  # length of the longest batch, as the DiT runs it
    cost: MicroBatchCost  # of such a micro-batch
    memory: dict[str, int]  # bytes that a process holds, by what they are for
    disk: int  # bytes of checkpoints and states that are kept at once
    hours: float | None  # by the device's FLOPs, where they are known
    stage: str | None = None  # of the recipe, where it is one of several

    def __str__(self) -> str:
        """For a person to read."""
        train, size = self.data.preset.train, self.epoch["clips_an_epoch"] // self.batches
        parts = ", ".join(f"{name} {size / _GB:.3g}" for name, size in self.memory.items())
        flops = self.cost.flops * train.micro_batches
        time = "unmeasured on this device; train a few steps and see clips a second"
        if self.hours is not None:
            time = f"about {self.hours:,.0f} h, if {_USED:.0%} of the device's FLOPs are used"
        return (
            (f"stage    {self.stage}\n" if self.stage else "")
            + f"clips    {epoch_text(self.epoch)}\n"
            f"batches  up to {self.seconds:g} s long\n"
            f"steps    {train.steps:,} of {train.micro_batches} x {size} clips, "
            f"{train.steps * train.micro_batches / self.batches:,.1f} epochs\n"
            f"weights  {self.cost.trained:,} trained, {self.cost.frozen:,} of the frozen DiT\n"
            f"work     {flops / 1e12:.3g} TFLOP a step, over processes: {self.layout.count}\n"
            f"memory   about {sum(self.memory.values()) / _GB:.3g} GB a process at the longest "
            f"batch ({parts}); VAE and text encoder come to it\n"
            f"disk     {self.disk / _GB:.3g} GB of checkpoints and states\n"
            f"time     {time}"
        )


def estimate(data: DatasetFeatures, layout: Layout) -> Estimate:
    """What training on this data would take, by counting on the longest batch that can come.

    Raises FoleyError where it cannot be: no clip has features, early stopping has nothing to
    validate on, processes without work or device, too little memory or disk.
    """
    settings, canvas = data.preset.train, data.canvas
    layout.check(settings.micro_batches)
    features = data.split("train")
    data.validation()
    facts = epoch_facts(features, settings, canvas)
    size = training_epoch(features, settings, canvas).batch_size
    # without a canvas a batch is as long as the shortest of its clips
    place = size if canvas.seconds is None else 1
    latents = canvas.length(int(np.sort(features.column("n_latents"))[-place]))
    _, cells, _ = features.columns["video_tokens"].shape
    taken = {"train": settings.model_copy(update={"batch_size": size})}
    preset = data.preset.model_copy(update=taken)
    cost = micro_batch_cost(preset, latents, (canvas.frames(latents), cells))
    whole, half = 4, 2 if settings.precision == "bf16" else 4  # bytes of a number
    memory = {
        "frozen weights": half * cost.frozen,
        "trained weights": whole * cost.trained,
        "gradients": whole * cost.trained * (2 if layout.count > 1 else 1),  # and buckets of them
        "optimiser": 2 * whole * cost.trained,
        "average": whole * cost.trained if settings.ema_decay else 0,
        "weights before": whole * cost.trained if settings.preference else 0,
        "activations": cost.activations,
    }
    state = memory["trained weights"] + memory["optimiser"] + memory["average"]
    state += memory["trained weights"] if settings.patience else 0  # the best
    kept = settings.keep_last + len(settings.keep_steps) + 2  # the best, and the final one
    disk = kept * memory["trained weights"] + 2 * state
    found = Estimate(
        data,
        layout,
        facts,
        facts["clips_an_epoch"] // size,
        round(latents / canvas.latent_rate, 2),
        cost,
        memory,
        disk,
        _hours(cost.flops * settings.micro_batches * settings.steps, layout),
    )
    _check_room(found)
    return found


def _hours(flops: float, layout: Layout) -> float | None:
    """On this machine's devices, where it is known what they do."""
    peak = device_peak()
    return flops / (peak * _USED * layout.count) / 3600 if peak else None


def _check_room(found: Estimate) -> None:
    """Raises FoleyError where memory or disk is too small."""
    needed = sum(found.memory.values())
    there = memory_here() // found.layout.processes
    if torch.cuda.is_available():
        there = torch.cuda.mem_get_info()[1]
    if needed > there:
        raise FoleyError(
            f"a process needs about {needed / _GB:.3g} GB and has {there / _GB:.3g} GB: lower "
            "train.batch_size (and raise train.micro_batches), or set train.checkpointing"
        )
    home = found.data.wh.home
    if found.disk > (free := shutil.disk_usage(home).free):
        has = f"has {free / _GB:.3g} GB free"
        raise FoleyError(f"{home} needs {found.disk / _GB:.3g} GB for checkpoints and {has}")
