"""Guidance by text and video: jointly as the backbone does it, or each by its own scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import FoleyControl, SoundRequest
from model.sampling.guidance import Guidance

VIDEO = torch.randn(2, 16, 1, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def foley(backbone: Backbone, bridge: Bridge) -> FoleyControl:
    return FoleyControl(backbone, bridge)


def velocity(foley: FoleyControl, guidance: Guidance, negative: list[str | None]) -> Tensor:
    backbone = foley.backbone
    x = torch.randn(2, backbone.model.io_channels, 50, generator=torch.Generator().manual_seed(1))
    conditioning = backbone.conditioning(backbone.encode_text(["metal", "wood"]), [2.0, 2.0])
    inputs = backbone.inputs(conditioning, foley._negative(negative, [2.0, 2.0]))
    videos = guidance.videos(list(VIDEO))
    shown = torch.stack(
        [torch.zeros_like(VIDEO[0]) if video is None else video for video in videos]
    )
    seen = torch.tensor([video is not None for video in videos])
    with torch.no_grad(), foley.bridge.conditioned_on(VideoBatch(shown, seen=seen), 50):
        return guidance.velocity(backbone, x, torch.tensor([0.3, 0.7]), inputs)


@pytest.mark.parametrize("negative", [[None, None], ["noise", "noise"], ["noise", None]])
def test_separate_guidance_is_the_weighted_sum_it_claims_to_be(
    foley: FoleyControl, negative: list[str | None]
) -> None:
    def of(cfg: float, video_cfg: float | None) -> Tensor:
        return velocity(foley, Guidance(cfg, video_cfg), negative)

    nothing, text, both = of(0.0, 0.0), of(1.0, 0.0), of(1.0, 1.0)
    want = nothing + 4.0 * (text - nothing) + 2.5 * (both - text)
    torch.testing.assert_close(of(4.0, 2.5), want, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(of(4.0, 2.5), of(4.0, None), atol=1e-3)
    # the joint one is the backbone's own code, and the same formula with equal scales
    torch.testing.assert_close(
        of(4.0, None), nothing + 4.0 * (both - nothing), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(of(1.0, None), both, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("guidance", "rows"),
    [
        ((1.0, None), 1),
        ((7.0, None), 2),
        ((7.0, 7.0), 2),
        ((7.0, 3.0), 3),
        ((7.0, 0.0), 2),
        ((1.0, 3.0), 2),
    ],
)
def test_a_step_runs_as_many_forwards_as_documented(
    foley: FoleyControl, guidance: tuple[float, float | None], rows: int
) -> None:
    sizes: list[int] = []
    transformer: Any = foley.backbone.dit.transformer
    hook = transformer.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    velocity(foley, Guidance(*guidance), [None, None])
    hook.remove()
    assert sizes == [2 * rows]


def test_without_guidance_by_video_it_is_the_sound_of_the_text(foley: FoleyControl) -> None:
    sample = foley.preset.sample.model_copy(update={"steps": 2})
    by_text = sample.model_copy(update={"video_cfg": 0.0})
    request = SoundRequest("metal", 2.0, 1, VIDEO[0])
    (seen,) = foley.generate([request], by_text)
    (unseen,) = foley.generate([replace(request, video=None)], sample)
    np.testing.assert_allclose(seen, unseen, atol=1e-3)
    assert not np.allclose(seen, foley.generate([request], sample)[0], atol=1e-3)


def test_a_negative_prompt_counts_for_its_own_clip_alone(foley: FoleyControl) -> None:
    sample = foley.preset.sample.model_copy(update={"steps": 2})
    metal = SoundRequest("metal", 2.0, 1, VIDEO[0])
    wood = SoundRequest("wood", 2.0, 2, VIDEO[1])
    mixed = foley.generate([replace(metal, negative_prompt="noise"), wood], sample)
    plain = foley.generate([metal, wood], sample)
    assert not np.allclose(mixed[0], plain[0], atol=1e-3)
    np.testing.assert_allclose(mixed[1], plain[1], atol=1e-3)
