"""The shipped toy models, loaded once."""

from __future__ import annotations

import pytest
import torch

from model.backbone import Backbone
from model.bridge import Bridge
from model.foley import build_bridge
from model.presets.preset import Preset, load_preset


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
