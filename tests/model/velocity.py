"""What the toy's DiT predicts for two prompts, and a batch of features for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone
from model.training.feature_batch import FeatureBatch

PROMPTS = ["a hammer strikes metal", "a ball bounces on wood"]
LATENTS, FRAMES = 100, 32


def conditioning(backbone: Backbone) -> dict[str, Any]:
    return backbone.inputs(backbone.conditioning(backbone.encode_text(PROMPTS), [4.0, 4.0]))


@torch.no_grad()
def velocity(backbone: Backbone, noisy: tuple[Tensor, Tensor], **kwargs: Any) -> Tensor:
    return backbone(*noisy, **conditioning(backbone), **kwargs)


def feature_batch(backbone: Backbone, tokens: Tensor) -> FeatureBatch:
    generator = torch.Generator().manual_seed(3)
    return FeatureBatch(
        video=tokens,
        frames=torch.full((2,), FRAMES),
        latent_mean=torch.randn(2, 16, LATENTS, generator=generator),
        latent_scale=torch.full((2, 16, LATENTS), 0.1),
        latents=torch.full((2,), LATENTS),
        text=backbone.encode_text(PROMPTS),
        seconds=[4.0, 4.0],
    )
