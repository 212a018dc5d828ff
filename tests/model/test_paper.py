"""The full-size preset is the published system by configuration.

Parameter counts, without memory for them.
"""

from __future__ import annotations

import re
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
            transformer.dim, transformer.depth, (1, 1024), preset.bridge, (preset.latent_rate, 8.0)
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


def test_settings_change_what_they_name_and_no_more() -> None:
    changed = load_preset(
        "toy",
        settings=["train.batch_size=24", "sample.video_cfg=2.5", "bridge.rope_positions=index"],
    )
    plain = load_preset("toy")
    assert changed.train == plain.train.model_copy(update={"batch_size": 24})
    assert changed.sample == plain.sample.model_copy(update={"video_cfg": 2.5})
    assert changed.bridge == plain.bridge.model_copy(update={"rope_positions": "index"})
    same = changed.model_dump(exclude={"train", "sample", "bridge"})
    assert same == plain.model_dump(exclude={"train", "sample", "bridge"})


@pytest.mark.parametrize(
    "setting",
    [
        "train.batch_size",
        "batch_size=2",
        ".=2",
        "train.batch_size=many",
        "train.speed=2",
        "models.video=here",
        "train.learning_rate=nan",
        "sample.cfg=inf",
        "sample.steps=0",
        "recipe.sft.train.steps=few",
    ],
)
def test_a_setting_that_is_none_is_named(setting: str) -> None:
    with pytest.raises(ModelError, match=re.escape(setting.partition("=")[0])):
        load_preset("toy", settings=[setting])
