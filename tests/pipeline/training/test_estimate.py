"""What a training is said to take is what it takes; what cannot be is refused before it begins."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.presets.preset import Preset, load_preset
from model.training.cost import micro_batch_cost
from model.training.trainer import NOISE_LEVELS
from pipeline.training.estimate import estimate
from pipeline.training.launch import Layout
from pipeline.training.train import train
from tests.model.training.test_trainer import FRAMES, LATENTS, make_batch, make_trainer
from tests.pipeline.small import Curated, with_training
from warehouse import FoleyError


@pytest.mark.parametrize("preference", [0.0, 0.3])
def test_a_counted_micro_batch_costs_what_a_real_one_does(
    preset: Preset, preference: float
) -> None:
    trainer = make_trainer(preset, batch_size=4, preference=preference)
    batch, sizes = make_batch(trainer.backbone, 0, 4), dict[int, int]()
    weights = {p.untyped_storage().data_ptr() for p in trainer.backbone.parameters()}
    weights |= {p.untyped_storage().data_ptr() for p in trainer.parameters}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            sizes[place] = tensor.untyped_storage().nbytes()
        return tensor

    levels = torch.zeros(NOISE_LEVELS, 2)
    with saved_tensors_hooks(keep, lambda value: value):
        trainer._backward(batch, 0, levels)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer._backward(batch, 0, levels)  # the only formula that is counted on a CPU
    found = micro_batch_cost(
        with_training(preset, batch_size=4, preference=preference), LATENTS, (FRAMES, 1)
    )
    assert found.trained == sum(p.numel() for p in trainer.parameters)
    inserted = set(trainer.bridge.parameters())
    of_dit = [p.numel() for p in trainer.backbone.dit.parameters() if p not in inserted]
    assert found.frozen == sum(of_dit)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert found.activations == pytest.approx(sum(sizes.values()), rel=0.15)


def test_the_papers_size_is_known_without_its_weights() -> None:
    """1.06 billion weights; the half of the memory goes by the half of the clips."""
    paper = load_preset("paper")
    whole, half = (
        micro_batch_cost(with_training(paper, batch_size=size), 65, (24, 1)) for size in (4, 2)
    )
    assert whole.frozen == 1_056_828_544
    assert whole.activations == pytest.approx(2 * half.activations, rel=0.01)
    assert whole.flops == pytest.approx(2 * half.flops, rel=0.01)
    # forward and backward through frozen weights: 4 FLOPs a weight and position, at the least
    assert whole.flops > 4 * 4 * 65 * 0.9 * whole.frozen


def test_an_estimate_says_what_training_then_writes(curated: Curated, preset: Preset) -> None:
    own = {"checkpoint_every": 1, "ema_decay": 0.9, "keep_state": True}
    data = curated.data(with_training(preset, steps=3, batch_size=3, **own))
    found = estimate(data, Layout())
    clips = len(data.split("train"))
    assert (found.epoch["clips"], found.epoch["clips_an_epoch"]) == (clips, clips // 3 * 3)
    assert found.batches == clips // 3
    assert f"{3 / (clips // 3):.1f} epochs" in str(found)
    done = train(data, lambda _: None)
    weights = found.memory["trained weights"]
    assert done.path.stat().st_size == pytest.approx(weights, rel=0.1)
    state = weights + found.memory["optimiser"] + found.memory["average"]
    assert (done.path.parent / "state.pt").stat().st_size == pytest.approx(state, rel=0.1)


def test_a_batch_of_all_clips_costs_no_more_than_they_do(curated: Curated, preset: Preset) -> None:
    few = estimate(curated.data(with_training(preset, batch_size=10_000)), Layout())
    clips = len(few.data.split("train"))
    same = estimate(curated.data(with_training(preset, batch_size=clips)), Layout())
    assert few.memory == same.memory
    # four of each length, and all at once are cut to the shortest; one by one none is cut
    latents = np.sort(few.data.split("train").column("n_latents"))
    rate = few.data.canvas.latent_rate
    assert few.seconds == pytest.approx(latents[0] / rate, abs=0.01)
    assert "cuts off" in str(few)
    assert "a smaller train.batch_size cuts less" in str(few)
    one = estimate(curated.data(with_training(preset, batch_size=1)), Layout())
    assert one.seconds == pytest.approx(latents[-1] / rate, abs=0.01)
    assert "cuts off" not in str(one)
    two = estimate(curated.data(with_training(preset, batch_size=2)), Layout())
    assert two.seconds == pytest.approx(latents[-2] / rate, abs=0.01)
    assert "x 2 clips" in str(two)
    assert f"x {clips} clips" in str(few)


@pytest.mark.parametrize(
    ("room", "why"), [("memory", "a process needs about .* GB"), ("disk", "GB for checkpoints")]
)
def test_what_does_not_fit_is_refused(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch, room: str, why: str
) -> None:
    class Little:
        total = free = 1_000_000

    def little(*_: Any) -> Little:
        return Little()

    if room == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", little)
    else:
        monkeypatch.setattr(shutil, "disk_usage", little)
    with pytest.raises(FoleyError, match=why):
        estimate(curated.data(preset), Layout())


def test_time_goes_by_the_work_of_all_steps_and_memory_is_shared_by_processes(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, two = curated.data(with_training(preset, steps=6, micro_batches=4)), Layout(2)
    monkeypatch.setattr("pipeline.training.estimate.device_peak", lambda: 1e12)
    found = estimate(data, two)
    # FLOPs of all micro-batches, of which 40% of what two devices give are used
    assert found.hours == pytest.approx(found.cost.flops * 4 * 6 / (2 * 0.4e12) / 3600)
    needed = sum(found.memory.values())
    monkeypatch.setattr("pipeline.training.estimate.memory_here", lambda: round(1.5 * needed))
    with pytest.raises(FoleyError, match="a process needs about"):
        estimate(data, two)


def test_a_layout_that_cannot_be_is_refused(curated: Curated, preset: Preset) -> None:
    with pytest.raises(FoleyError, match="cannot be shared by 2 processes"):
        estimate(curated.data(preset), Layout(2))
