"""The shipped toy models, loaded once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.foley import build_bridge
from model.presets.preset import Preset, load_preset
from tests.model.velocity import FRAMES, LATENTS


@pytest.fixture(scope="session")
def preset() -> Preset:
    return load_preset("toy")


@pytest.fixture
def backbone(preset: Preset) -> Backbone:
    return Backbone.from_pretrained(preset)


@pytest.fixture
def bridge(backbone: Backbone, preset: Preset) -> Bridge:
    """A bridge whose output is not zero, inserted."""
    torch.manual_seed(0)
    found = build_bridge(backbone)
    for layer in found.blocks:
        torch.nn.init.normal_(layer.to_out.weight, std=0.2)
    torch.nn.init.normal_(found.null)
    found.insert(backbone.dit)
    return found.requires_grad_(False)


@pytest.fixture
def noisy() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 16, LATENTS, generator=generator), torch.tensor([0.3, 0.8])


@pytest.fixture
def tokens(preset: Preset) -> Tensor:
    return torch.randn(2, FRAMES, 1, preset.video.width, generator=torch.Generator().manual_seed(2))
