"""What stays of a known sound, where sampling starts from one, and prompts over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.foley import FoleyControl
from model.presets.settings import SampleSettings, WindowSettings
from model.sampling.diffusion import diffuse
from model.sampling.editing import hold, velocity_to
from model.sampling.request import Retake, SoundRequest, Stretch
from model.sampling.samplers import Start, clip_noise, sample_velocity_model
from model.sampling.windows import encode_in_pieces, plan_stretches

SAMPLERS = ["v-ddim", "dpmpp-3m-sde", "euler", "pingpong"]
WINDOW = WindowSettings(seconds=4.0, overlap=1.0)


def settings(sampler: Any, steps: int = 6) -> SampleSettings:
    return SampleSettings(sampler=sampler, steps=steps, fast_steps=steps, cfg=1.0)


def objective(sampler: str) -> str:
    return "v" if sampler in ("v-ddim", "dpmpp-3m-sde") else "rectified_flow"


@pytest.mark.parametrize("kind", ["v", "rectified_flow"])
def test_the_velocity_to_clean_latents_is_what_training_asks_for(kind: str) -> None:
    clean, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    times = torch.tensor([0.01, 0.4, 1.0], dtype=torch.float64)
    noised = diffuse(clean, times, noise, kind)
    found = velocity_to(clean, noised.noisy, noised.t, kind)
    torch.testing.assert_close(found, noised.target)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_known_stays_and_the_rest_is_the_models(sampler: str) -> None:
    """The model leads to 7 everywhere; only the free latents of the first clip may follow."""
    known, noise = torch.randn(3, 10), clip_noise([1, 2], 3, 10)
    seven = torch.full((2, 3, 10), 7.0)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return velocity_to(seven, x, t, objective(sampler))

    held = hold(model, [Retake(known, ((2, 5), (9, 10))), None], objective(sampler))
    made = sample_velocity_model(held, Start(noise, [1, 2]), settings(sampler))
    free = torch.tensor([2, 3, 4, 9])
    kept = torch.tensor([i for i in range(10) if i not in free])
    torch.testing.assert_close(made[0][:, kept], known[:, kept], rtol=0, atol=2e-3)
    torch.testing.assert_close(made[0][:, free], seven[0][:, free], rtol=0, atol=2e-3)
    torch.testing.assert_close(made[1], seven[1], rtol=0, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_starts_from_a_sound_with_so_much_noise(sampler: str) -> None:
    known, noise = torch.randn(2, 3, 10), clip_noise([1, 2], 3, 10)
    seen: list[tuple[Tensor, Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return velocity_to(known, x, t, objective(sampler))

    sample_velocity_model(model, Start(noise, [1, 2], known, 0.6), settings(sampler))
    x, t = seen[0]
    torch.testing.assert_close(t, torch.full((2,), 0.6))
    part = (math.cos(0.3 * math.pi), math.sin(0.3 * math.pi))
    clean, noisy = part if objective(sampler) == "v" else (0.4, 0.6)
    torch.testing.assert_close(x, clean * known + noisy * noise, rtol=1e-4, atol=1e-4)
    times = [float(t[0]) for _, t in seen]
    assert times == sorted(times, reverse=True)
    assert len(seen) == 6


def test_no_window_reaches_over_a_cut_and_prompts_fade() -> None:
    plan = plan_stretches(250, (25.0, 8.0), WINDOW, [(3.2, True), (8.4, False)])
    parts = [(part.stretch, part.start, part.stop) for part in plan]
    assert parts == [(0, 0, 80), (1, 80, 180), (1, 116, 216), (2, 204, 250)]
    for part in plan:
        assert part.first / 8 == pytest.approx(part.start / 25 + part.offset)


def test_latents_in_pieces_are_those_of_the_whole(backbone: Backbone) -> None:
    audio = torch.randn(1, 1, 150 * backbone.preset.downsampling_ratio + 77)
    whole = backbone.codec.encode(audio)[0]
    torch.testing.assert_close(encode_in_pieces(backbone, audio, 40), whole, rtol=1e-4, atol=1e-4)


@pytest.fixture
def foley(backbone: Backbone, bridge: Bridge) -> FoleyControl:
    return FoleyControl(backbone, bridge)


def sampled(foley: FoleyControl, *requests: SoundRequest) -> Tensor:
    steps = foley.preset.sample.model_copy(update={"steps": 2})
    return foley._sample(requests, foley.latent_frames(requests[0].seconds), steps, None)


def test_a_prompt_counts_in_its_own_stretch(foley: FoleyControl) -> None:
    cut, soft = (
        [
            SoundRequest("", 4.0, 1, stretches=(Stretch(0, first), Stretch(2.0, "wood", at_cut)))
            for first in ("metal", "glass")
        ]
        for at_cut in (True, False)
    )
    for pair, latents in ((cut, 50), (soft, 44)):
        together = sampled(foley, *pair)
        one, other = (sampled(foley, request)[0] for request in pair)
        torch.testing.assert_close(together[1], other, rtol=1e-3, atol=1e-3)
        assert (one[:, :latents] != other[:, :latents]).any(0).all()
        assert torch.equal(one[:, 50:], other[:, 50:]) == (pair is cut)


def test_a_video_may_be_hidden_for_a_while(foley: FoleyControl) -> None:
    video = torch.randn(32, 1, foley.preset.video.width)
    seen = SoundRequest("metal", 4.0, 1, video)
    all_hidden, none = replace(seen, hidden=((0.0, 9.0),)), replace(seen, video=None)
    torch.testing.assert_close(sampled(foley, all_hidden), sampled(foley, none))
    other = video.clone()
    other[8:16] += 1.0
    pair = [replace(seen, video=v, hidden=((1.0, 2.0),)) for v in (video, other)]
    assert torch.equal(*(sampled(foley, request) for request in pair))
    assert not torch.equal(sampled(foley, pair[0]), sampled(foley, seen))
    for span in ((1.2, 2.0), (1.0, 2.2)):
        more = replace(pair[1], hidden=(span,))
        assert not torch.equal(sampled(foley, more), sampled(foley, pair[0]))


def test_a_retake_runs_no_window_in_which_nothing_is_new(
    foley: FoleyControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    foley.preset = foley.preset.model_copy(update={"window": WINDOW})
    known = torch.randn(16, 250)
    request = SoundRequest("metal", 10.0, 1, retake=Retake(known, ((10, 30),)))
    run: list[int] = []
    inner = foley._conditioned_on

    def counted(videos: Any, window: Any, *rest: Any) -> Any:
        run.append(window.start)
        return inner(videos, window, *rest)

    monkeypatch.setattr(foley, "_conditioned_on", counted)
    made = sampled(foley, request)[0]
    assert set(run) == {0}
    torch.testing.assert_close(made[:, 30:], known[:, 30:], rtol=0, atol=2e-3)
    assert (made[:, 10:30] - known[:, 10:30]).abs().max() > 0.1
