"""Training in several processes: another number of them goes on, and none outlives who asked."""

from __future__ import annotations

import multiprocessing
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.presets.preset import Preset
from model.training.trainer import Progress
from pipeline.training.launch import Layout, train_in_processes
from pipeline.training.train import train
from tests.operations.factory import until
from tests.pipeline.small import Curated, with_training
from warehouse import FoleyError, Warehouse
from warehouse.files import file_lock


@pytest.mark.slow
def test_a_training_goes_on_in_another_number_of_processes(
    curated: Curated, preset: Preset, tmp_path: Path
) -> None:
    """Two processes, then four, then one, each of which is stopped, train what one does."""
    data = curated.data(
        with_training(preset, steps=60, batch_size=2, micro_batches=4, validate_every=20)
    )
    other = Warehouse(shutil.copytree(curated.wh.home, tmp_path / "other"))
    began: list[int] = []

    def stop(progress: Progress) -> None:
        began.append(progress.step)
        raise KeyboardInterrupt

    for count in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train_in_processes(Layout(count), data, stop)
        assert not running("pipeline.training.distributed", str(curated.wh.home))
    last = train(data, lambda progress: began.append(progress.step))
    assert 1 == began[0] < began[1] < began[2] < 60
    alone = train(replace(data, wh=other), lambda _: None)
    assert alone.id == last.id
    for key in ("losses", "validation"):
        found, whole = (torch.tensor(done.record[key]) for done in (last, alone))
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=0)
    weights = load_file(last.path)
    for name, value in load_file(alone.path).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-4)
    with pytest.raises(FoleyError, match="cannot be shared by 3"):
        train_in_processes(Layout(3), data, stop)


@pytest.mark.slow
def test_processes_end_with_the_killed_one_that_started_them(
    curated: Curated, preset: Preset
) -> None:
    """Where they have nothing to say, which would fail.

    Here they wait for another training of the same.
    """
    both = with_training(preset, batch_size=3, micro_batches=2)
    args = (curated.data(both), print)
    first = train(*args)
    child = multiprocessing.get_context("spawn").Process(
        target=train_in_processes, args=(Layout(2), *args)
    )
    mine = ("pipeline.training.distributed", str(curated.wh.home))
    with file_lock(curated.wh.lock_path(f"train-{first.id}")):
        child.start()
        until(lambda: len(running(*mine)) == 3, 120, "launcher and processes are there")
        child.kill()
        until(lambda: not running(*mine), 120, "they are gone")


def running(*words: str) -> list[str]:
    """Command lines of processes that hold all of these words."""
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended since
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if all(word in line for word in words)]
