"""Samplers of rectified-flow backbones, on flows whose end is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.presets.preset import ModelError, Preset
from model.presets.settings import SampleSettings
from model.sampling.samplers import Start, clip_noise, sample_velocity_model


def flow_to(target: Tensor) -> Callable[..., Tensor]:
    """The exact velocity of the straight flow from noise (t = 1) to one clean latent (t = 0)."""

    def velocity(x: Tensor, t: Tensor, **_: object) -> Tensor:
        return (x - target) / t[:, None, None]

    return velocity


def settings(sampler: str, steps: int = 8) -> SampleSettings:
    return SampleSettings.model_validate(
        {"sampler": sampler, "steps": steps, "fast_steps": steps, "cfg": 1.0}
    )


@pytest.mark.parametrize("sampler", ["euler", "pingpong"])
def test_a_straight_flow_is_followed_to_its_end(sampler: str) -> None:
    target = torch.randn(2, 4, 10)
    steps: list[tuple[int, int]] = []
    found = sample_velocity_model(
        flow_to(target),
        Start(clip_noise([1, 2], 4, 10), [1, 2]),
        settings(sampler),
        lambda i, n: steps.append((i, n)),
    )
    torch.testing.assert_close(found, target, atol=1e-4, rtol=1e-4)
    assert steps == [(i + 1, 8) for i in range(8)]


def test_pingpong_noise_is_each_clips_own() -> None:
    def model(x: Tensor, t: Tensor, **_: object) -> Tensor:
        return x.tanh() * t[:, None, None]

    both = sample_velocity_model(
        model, Start(clip_noise([1, 2], 4, 10), [1, 2]), settings("pingpong")
    )
    alone = sample_velocity_model(model, Start(clip_noise([2], 4, 10), [2]), settings("pingpong"))
    torch.testing.assert_close(both[1:], alone)
    other = sample_velocity_model(model, Start(clip_noise([2], 4, 10), [3]), settings("pingpong"))
    assert not torch.allclose(alone, other)


def test_a_sampler_that_does_not_suit_the_backbone_is_refused(preset: Preset) -> None:
    wrong = preset.model_copy(
        update={"sample": preset.sample.model_copy(update={"sampler": "pingpong"})}
    )
    with pytest.raises(ModelError, match="v-ddim or dpmpp-3m-sde"):
        Backbone.from_pretrained(wrong)
