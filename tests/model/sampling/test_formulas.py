"""Sampling against formulas written here, and what models are asked on the way."""

from __future__ import annotations

import math
from contextlib import redirect_stderr
from io import StringIO

import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import FoleyControl, SoundRequest
from model.presets.preset import Preset
from model.presets.settings import SampleSettings, WindowSettings
from model.sampling.samplers import Start, clip_noise, sample_velocity_model
from model.sampling.windows import cross_fades, plan_windows

SEEDS = [3, 8]


def settings(sampler: str, **changes: float) -> SampleSettings:
    given = {"sampler": sampler, "steps": 6, "fast_steps": 6, "cfg": 1.0}
    return SampleSettings.model_validate(given | changes)


class Asked:
    """A model that is not linear, and what it was asked."""

    def __init__(self) -> None:
        self.x: list[Tensor] = []
        self.t: list[Tensor] = []
        self.velocity: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, **_: object) -> Tensor:
        velocity = (x + t[:, None, None]).tanh()
        self.x.append(x.clone())
        self.t.append(t.clone())
        self.velocity.append(velocity)
        return velocity


def test_euler_is_the_librarys_own_sampler_of_rectified_flows() -> None:
    from stable_audio_tools.inference.sampling import sample_rf

    noise = clip_noise(SEEDS, 4, 10)
    with redirect_stderr(StringIO()):
        theirs = sample_rf(Asked(), noise, steps=6, sampler_type="euler", device="cpu")
    ours = sample_velocity_model(Asked(), Start(noise, SEEDS), settings("euler"))
    torch.testing.assert_close(ours, theirs)


def fresh_noise(noise: Tensor) -> list[Tensor]:
    """What pingpong goes back by at each step, from what the model was asked: [B, C, L] each."""
    asked = Asked()
    sample_velocity_model(asked, Start(noise, SEEDS), settings("pingpong"))
    assert torch.equal(asked.x[0], noise)
    fresh: list[Tensor] = []
    for i in range(5):
        t, after = float(asked.t[i][0]), float(asked.t[i + 1][0])
        clean = asked.x[i] - t * asked.velocity[i]
        fresh.append((asked.x[i + 1] - (1 - after) * clean) / after)
    return fresh


def correlation(noises: list[Tensor]) -> float:
    """The largest between the noise of two steps or two clips."""
    rows = torch.cat(noises).flatten(1)
    return float((torch.corrcoef(rows) - torch.eye(len(rows))).abs().max())


def test_pingpong_goes_to_the_clean_latents_and_back_by_noise_that_is_new() -> None:
    fresh = fresh_noise(clip_noise(SEEDS, 16, 500))
    for noise in fresh:
        assert 0.97 < float(noise.std()) < 1.03
        assert abs(float(noise.mean())) < 0.03
    assert correlation(fresh) < 0.1


def test_pingpong_does_not_go_back_by_the_noise_it_came_from() -> None:
    noise = clip_noise(SEEDS, 16, 500)
    assert correlation([noise, *fresh_noise(noise)]) < 0.1


def test_noise_of_a_clip_is_its_seeds_own() -> None:
    for row, seed in zip(clip_noise(SEEDS, 4, 10), SEEDS, strict=True):
        want = torch.randn(4, 10, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(row, want)


def test_the_sde_goes_from_the_highest_level_of_noise_to_the_lowest() -> None:
    asked, noise = Asked(), clip_noise(SEEDS, 4, 10)
    given = settings("dpmpp-3m-sde", sigma_min=0.05, sigma_max=80.0)
    sample_velocity_model(asked, Start(noise, SEEDS), given)
    times = [float(t[0]) for t in asked.t]
    levels = [math.tan(t * math.pi / 2) for t in times]
    torch.testing.assert_close(levels[0], 80.0, rtol=1e-3, atol=0)
    torch.testing.assert_close(levels[-1], 0.05, rtol=1e-3, atol=0)
    ratios = torch.tensor(levels).log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(5), rtol=1e-2, atol=0)
    torch.testing.assert_close(asked.x[0], noise * 80 / math.hypot(80, 1), rtol=1e-4, atol=1e-5)


WINDOW = WindowSettings(seconds=4.0, overlap=1.0)


def test_overlapping_windows_fade_in_straight_lines() -> None:
    plan = plan_windows(237, 25.0, 8.0, WINDOW)
    assert [(part.start, part.stop) for part in plan] == [(0, 100), (75, 175), (137, 237)]
    first, second, third = cross_fades(plan)
    rise = (torch.arange(25) + 0.5) / 25
    torch.testing.assert_close(second[:25], rise)
    torch.testing.assert_close(first[75:], 1 - rise)
    torch.testing.assert_close(third[:38], (torch.arange(38) + 0.5) / 38)
    assert bool((first[:75] == 1).all())


@torch.no_grad()
def test_a_step_over_windows_is_the_sum_of_each_ones_own(
    backbone: Backbone, bridge: Bridge, preset: Preset
) -> None:
    """With one step of DDIM the latents are minus the velocity at the noise itself."""
    videos = torch.randn(2, 76, 1, preset.video.width, generator=torch.Generator().manual_seed(0))
    requests = [
        SoundRequest(prompt, 9.48, seed, video)
        for prompt, seed, video in zip(("metal", "wood"), SEEDS, videos, strict=True)
    ]
    one = preset.sample.model_copy(update={"steps": 1, "cfg": 1.0})
    foley = FoleyControl(backbone, bridge)
    foley.preset = preset.model_copy(update={"window": WINDOW})
    made = foley._sample(requests, 237, one, None)
    noise = torch.stack(
        [torch.randn(16, 237, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    )
    inputs = backbone.inputs(
        backbone.conditioning(backbone.encode_text(["metal", "wood"]), [4.0, 4.0])
    )
    total, weight = torch.zeros_like(noise), torch.zeros(237)
    for start, fade_in, fade_out in ((0, 0, 25), (75, 25, 38), (137, 38, 0)):
        first = round(start * 8 / 25)
        batch = VideoBatch(videos[:, first : first + 32], offset=first / 8 - start / 25)
        with bridge.conditioned_on(batch, 100):
            found = backbone(noise[..., start : start + 100], torch.ones(2), **inputs)
        fade = torch.ones(100)
        if fade_in:
            fade[:fade_in] = (torch.arange(fade_in) + 0.5) / fade_in
        if fade_out:
            fade[100 - fade_out :] = 1 - (torch.arange(fade_out) + 0.5) / fade_out
        total[..., start : start + 100] += found * fade
        weight[start : start + 100] += fade
    torch.testing.assert_close(made, -total / weight, rtol=1e-3, atol=1e-3)
