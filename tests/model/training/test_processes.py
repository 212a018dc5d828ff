"""Two real processes train what one does: the same start, summed gradients, the same weights."""

from __future__ import annotations

import multiprocessing
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.presets.preset import Preset, load_preset
from model.training.divergence import DivergedError
from model.training.processes import Processes
from model.training.trainer import Trainer
from model.training.validation import validate
from tests.model.training.test_trainer import advance, make_batch, make_trainer

SETTINGS: dict[str, Any] = {
    "micro_batches": 4, "steps": 20, "warmup_steps": 2, "preference": 0.5,
    "preference_beta": 3.0,
}  # fmt: skip


def together(rank: int, port: int, out: Path) -> None:
    """One of two processes: three steps, a fault of the second one's memory, and what was sent."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    trainer = make_trainer(load_preset("toy"))
    with torch.no_grad():
        for value in trainer.bridge.state_dict().values():
            value.add_(rank)  # which the first one's replace
    settings = trainer.settings.model_copy(update=SETTINGS)
    trainer = Trainer(trainer.backbone, trainer.bridge, settings, Processes(rank, 2))
    trainer.check_processes()
    steps = [step(trainer) for _ in range(2)]
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        steps.append(step(trainer))
    sent = Counter(event.name for event in profiled.events() or ())["gloo:all_reduce"]
    trainer.check_processes()
    weights = {name: value.clone() for name, value in trainer.bridge.state_dict().items()}
    if rank == 1:
        trainer.parameters[3].data.flatten()[0:1].view(torch.int32).bitwise_xor_(1)
    with pytest.raises(DivergedError) as fault:
        trainer.check_processes()
    found = {"weights": weights, "steps": steps, "sent": sent, "fault": str(fault.value)}
    torch.save(found, out / f"{rank}.pt")
    dist.destroy_process_group()


def step(trainer: Trainer) -> tuple[float, float]:
    """A step on unequal batches; its loss and the norm of its gradient."""
    sizes = [2, 3, 1, 2]
    progress = trainer.train_step(
        [make_batch(trainer.backbone, 10 * trainer.step + m, sizes[m]) for m in trainer.mine]
    )
    return progress.loss, progress.grad_norm


@pytest.mark.slow
def test_two_processes_train_what_one_does(preset: Preset, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=together, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = make_trainer(preset, **SETTINGS)
    for got in zip(first["steps"], second["steps"], [step(alone) for _ in range(3)], strict=True):
        assert got[0] == got[1]
        assert got[0] == pytest.approx(got[2], rel=1e-5)
    for name, value in alone.bridge.state_dict().items():
        assert first["weights"][name].equal(second["weights"][name])
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-4, atol=1e-5)
    # the loss, which parameters were used, and gradients in a few pieces, of so many parameters
    assert first["sent"] < 6 < len(alone.parameters)
    for found in (first, second):
        assert found["fault"] == "step 3: the weights of process 1 are not those of process 0"


def test_one_process_is_the_same_as_itself(preset: Preset) -> None:
    advance(make_trainer(preset), 1).check_processes()


def test_validation_shared_by_processes_is_that_of_one_to_the_bit(preset: Preset) -> None:
    trainer = advance(make_trainer(preset), 1)
    batches = [make_batch(trainer.backbone, seed, size) for seed, size in ((1, 2), (2, 3), (3, 1))]
    whole = trainer.validate(batches)
    shares: list[Tensor] = []

    class OneAfterAnother(Processes):
        """Two processes, one after another: the second sums what both have."""

        def sum(self, value: Tensor) -> Tensor:
            shares.append(value)
            return torch.stack(shares).sum(0)

    both = [OneAfterAnother(rank, world=2) for rank in range(2)]
    losses = [validate(trainer.backbone, trainer.bridge, batches, 0, one) for one in both]
    assert losses[1] == whole
    assert [int(share.any(1).sum()) for share in shares] == [2, 1]
    assert len({whole.true, whole.null, whole.other}) == 3
