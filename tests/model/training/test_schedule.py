"""Learning rates by their formulas, and clean latents from what is predicted of noisy ones."""

from __future__ import annotations

import math

import pytest
import torch

from model.presets.settings import TrainSettings
from model.sampling.diffusion import diffuse
from model.training.trainer import learning_rate


def test_the_backbones_own_schedule() -> None:
    settings = TrainSettings(steps=10, batch_size=1, learning_rate=2.0, schedule="inverse")
    assert learning_rate(settings, 0) == pytest.approx(2.0 * 0.01)
    assert learning_rate(settings, 1_000_000) == pytest.approx(2.0 / math.sqrt(2))
    assert learning_rate(settings, 3_000_000) == pytest.approx(2.0 / 2)


def test_cosine_rises_to_the_top_and_falls_to_nothing() -> None:
    settings = TrainSettings(steps=100, batch_size=1, learning_rate=2.0, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(101)]
    assert max(rates) <= 2.0
    assert rates.index(max(rates)) == 9
    assert rates[100] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("objective", ["v", "rectified_flow"])
def test_clean_latents_follow_from_what_is_predicted(objective: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    latents = diffuse(clean, t, noise, objective)
    noisy, target = latents.noisy, latents.target
    angle = (t * math.pi / 2)[:, None, None]
    found = noisy - t[:, None, None] * target
    if objective == "v":
        found = angle.cos() * noisy - angle.sin() * target
    torch.testing.assert_close(found, clean)
