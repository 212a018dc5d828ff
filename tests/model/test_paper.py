"""The full-size preset is the published system by configuration.

Parameter counts, without memory for them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stable_audio_tools.models.factory import create_model_from_config
from torch import nn

from model.bridge import Bridge
from model.presets.preset import ModelError, load_preset


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.fixture(scope="module")
def backbone() -> Any:
    config = load_preset("paper").backbone_config
    conditioning = config["model"]["conditioning"]
    conditioning["configs"] = [
        entry for entry in conditioning["configs"] if entry["type"] != "t5"
    ]  # needs its weights
    with torch.device("meta"):
        return create_model_from_config(config)


def test_stable_audio_open_has_its_published_size(backbone: Any) -> None:
    assert millions(backbone.model) == pytest.approx(1056.8, abs=0.1)
    assert millions(backbone.pretransform) == pytest.approx(156.1, abs=0.1)


def test_a_12_s_clip_is_259_latents() -> None:
    preset = load_preset("paper")
    assert -(-preset.max_seconds * preset.sample_rate // preset.downsampling_ratio) == 259


def test_the_full_size_bridge_fits_the_backbone_and_is_thin(backbone: Any) -> None:
    preset, transformer = load_preset("paper"), backbone.model.model.transformer
    with torch.device("meta"):
        bridge = Bridge(
            transformer.dim, transformer.depth, 1024, preset.bridge, (preset.latent_rate, 8.0)
        )
    bridge.insert(backbone.model.model)
    bridge.remove(backbone.model.model)
    assert preset.bridge.heads * preset.bridge.head_dim == transformer.dim
    assert millions(bridge) < 0.2 * millions(backbone.model)


@pytest.mark.parametrize(
    ("name", "message"), [("no-such", "no preset 'no-such': choose one of paper, toy")]
)
def test_an_unknown_preset_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_preset(name)


def test_a_wrong_setting_is_named(tmp_path: Any) -> None:
    text = (
        (load_preset("toy").folder / "preset.toml")
        .read_text()
        .replace("heads = 4", 'heads = "four"', 1)
    )
    (tmp_path / "preset.toml").write_text(text)
    with pytest.raises(ModelError, match=r"bridge\.heads"):
        load_preset(str(tmp_path))
