"""Figures over a few steps: by noise level, of the time that passed, and of the waiting in it."""

from __future__ import annotations

import pytest

from model.presets.preset import Preset
from model.training.trainer import NOISE_LEVELS, Progress
from pipeline.training import meter
from pipeline.training.meter import Meter, clip_flops
from tests.pipeline.small import Curated, with_training


def test_figures_are_of_the_steps_since_they_were_last_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(
        [100.0, 104.0, 106.0]
    )  # seconds, at the beginning and whenever figures are asked for
    monkeypatch.setattr(meter, "perf_counter", lambda: next(now))
    empty = [(0.0, 0.0)] * (NOISE_LEVELS - 2)
    watched = Meter(3e12, 24e12)
    watched.add(Progress(1, 9.0, 2.0, 0.1, levels=[(3.0, 2.0), *empty, (8.0, 2.0)]))
    last = Progress(2, 5.0, 1.0, 0.2, levels=[(6.0, 1.0), *empty, (0.0, 3.0)])
    watched.add(last)
    found = dict(watched.figures(last, waited=1.0))
    assert found.pop("peak_memory_gb") > 0.01
    assert found == {
        "loss": 5.0,
        "grad_norm": 1.0,
        "learning_rate": 0.2,
        "loss_at_noise/0.0-0.2": 3.0,
        "loss_at_noise/0.8-1.0": 1.6,
        "clips_per_second": 2.0,
        "tflops_per_second": 6.0,
        "mfu": 0.25,
        "data_wait_share": 0.25,
    }
    watched.add(last)
    found = watched.figures(last, waited=1.5)
    assert (found["loss_at_noise/0.0-0.2"], found["clips_per_second"]) == (6.0, 2.0)
    assert found["data_wait_share"] == 0.25


def test_the_work_of_a_clip_is_the_same_in_any_batch(untrained: Curated, preset: Preset) -> None:
    one, four = (clip_flops(untrained.data(with_training(preset, batch_size=n))) for n in (1, 4))
    assert one == four > 1e6


def test_no_share_is_told_of_a_device_that_nobody_knows() -> None:
    found = Meter(3e12, None).figures(Progress(1, 1.0, 1.0, 1.0), waited=0.0)
    assert "mfu" not in found
    assert found["tflops_per_second"] == 0.0
