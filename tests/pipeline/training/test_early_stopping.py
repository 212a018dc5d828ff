"""A training that ends early leaves the best weights by validation, whatever happened to it."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.presets.preset import Preset
from model.training.trainer import Progress
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from pipeline.training.estimate import estimate
from pipeline.training.launch import Layout, train_in_processes
from pipeline.training.train import train
from tests.pipeline.small import Curated, with_training
from tests.pipeline.training.test_train import train_and_die
from warehouse import Dataset, FoleyError, Warehouse

PATIENCE = 3
STEPS = 14
#: So validation gets better, then worse for three steps, then better again.
RATE = {"steps": STEPS, "learning_rate": 0.002, "warmup_steps": 1, "ema_decay": 0.5}
BOTH = RATE | {"batch_size": 2, "micro_batches": 2, "validate_every": 1}
WHOLE = BOTH | {"checkpoint_every": 1, "keep_last": STEPS}
EARLY = BOTH | {"checkpoint_every": 3, "patience": PATIENCE}


@pytest.fixture
def poor(preset: Preset) -> Preset:
    """A preset whose untrained bridge makes it worse, so that there is something to gain."""
    layers = preset.bridge.model_copy(update={"zero_init": False})
    return preset.model_copy(update={"bridge": layers})


def elsewhere(curated: Curated, folder: Path) -> Curated:
    """The same in another home."""
    return replace(curated, wh=Warehouse(shutil.copytree(curated.wh.home, folder)))


def end_of(losses: dict[int, float]) -> tuple[int, int]:
    """The best step and the last one that patience allows, found by walking."""
    best, waited = 0, 0
    for step in sorted(losses)[1:]:
        best, waited = (step, 0) if losses[step] < losses[best] else (best, waited + 1)
        if waited == PATIENCE:
            return best, step
    raise AssertionError("it is to stop early")


def test_the_best_weights_are_left_those_of_a_training_of_just_those_steps(
    curated: Curated, poor: Preset, tmp_path: Path
) -> None:
    data = elsewhere(curated, tmp_path / "whole").data(with_training(poor, **WHOLE))
    whole = train(data, lambda _: None)
    patient = curated.data(with_training(poor, **EARLY))

    def stop(progress: Progress) -> None:
        if progress.step in (1, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(patient, stop)
    early = train(patient, lambda _: None)

    measured = early.record["validation"]
    assert measured[0][0] == 0  # what it began with counts, too
    assert measured[1:] == whole.record["validation"][: len(measured) - 1]
    begun = {0: measured[0][1]}
    best, last = end_of(begun | {step: true for step, true, *_ in whole.record["validation"]})
    assert 0 < best < last < STEPS
    said = [early.record[name] for name in ("steps", "ended_after", "early")]
    assert said == [best, last, True]
    assert early.record["losses"] == whole.record["losses"][:last]
    of_best = find_checkpoint(data.wh, f"{whole.id}-step{best:06d}")
    assert of_best is not None
    assert early.path.read_bytes() == of_best.path.read_bytes()
    assert not train(patient, lambda _: None).trained


@pytest.mark.slow
def test_killed_or_in_two_processes_it_ends_at_the_same_step(
    curated: Curated, poor: Preset, tmp_path: Path
) -> None:
    settings = with_training(poor, **EARLY)
    alone = train(elsewhere(curated, tmp_path / "alone").data(settings), lambda _: None)
    assert alone.record["early"]
    killed = curated.data(settings)
    child = multiprocessing.get_context("spawn").Process(
        target=train_and_die, args=(killed, alone.record["ended_after"] - 1)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    resumed = train(killed, lambda _: None)
    assert resumed.path.read_bytes() == alone.path.read_bytes()
    both = elsewhere(curated, tmp_path / "both")
    shutil.rmtree(both.wh.home / "checkpoints" / alone.id)
    together = train_in_processes(Layout(2), both.data(settings), lambda _: None)

    def end(checkpoint: Checkpoint) -> list[int]:
        return [checkpoint.record[name] for name in ("steps", "ended_after")]

    assert end(together) == end(resumed) == end(alone)
    assert resumed.record["validation"] == alone.record["validation"]
    weights = load_file(alone.path)
    for name, value in load_file(together.path).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-3)


def test_patience_without_clips_to_validate_on_is_refused_before_any_work(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = curated.data(with_training(preset, patience=2))
    ids = Dataset.clip_ids

    def few(self: Dataset, split: str | None = None, subset: str | None = None) -> list[str]:
        return [] if split == "val" else ids(self, split, subset)

    monkeypatch.setattr(Dataset, "clip_ids", few)
    for ask in (
        lambda: train(data, lambda _: None),
        lambda: train_in_processes(Layout(1), data, lambda _: None),
        lambda: estimate(data, Layout()),
    ):
        with pytest.raises(
            FoleyError, match=r"two clips at least .* has 0: write val as the split"
        ):
            ask()
    without = curated.data(with_training(preset, steps=1))
    assert "early" not in train(without, lambda _: None).record
