"""docs/extending.md.

Its presets load and have their architectures' sizes, and its worked example runs.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel, VJEPA2Config, VJEPA2Model

from model.backbone import bare_backbone
from model.bridge import Bridge, VideoBatch
from model.hub.check import count, on_meta
from model.presets.preset import Preset, load_preset
from model.video_encoder import DinoV3Encoder, VJepa2Encoder
from tests.foley.commands import ROOT, environment

PAGE = (ROOT / "docs/extending.md").read_text()
# What model_config.json of Stable Audio Open Small has otherwise than 1.0. The file is gated; a
# public port of the model (sandst1/stable-audio-mlx) confirms sizes and conditioners; the rest is
# from memory: qk_norm, the prompt's length, the range of seconds.
SMALL: dict[str, Any] = {
    "diffusion_objective": "rf_denoiser",
    "cross_attention_cond_ids": ["prompt", "seconds_total"],
    "global_cond_ids": ["seconds_total"],
    "config": {
        "io_channels": 64, "embed_dim": 1024, "depth": 16, "num_heads": 8, "cond_token_dim": 768,
        "global_cond_dim": 768, "transformer_type": "continuous_transformer",
        "attn_kwargs": {"qk_norm": "ln"},
    },
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def preset_of(words: str, folder: Path) -> Preset:
    """The preset of the page that names these words."""
    (text,) = [block for block in blocks("toml") if words in block]
    (folder / "preset.toml").write_text(text)
    return load_preset(str(folder), folder / "store")


def test_a_preset_that_builds_on_another_changes_only_what_it_says(tmp_path: Path) -> None:
    paper, found = load_preset("paper"), preset_of("vjepa2-vith", tmp_path)
    assert found.video == paper.video.model_copy(update={"width": 1280})
    assert found.models["video"].repo == "facebook/vjepa2-vith-fpc64-256"
    assert (found.models["audiobox"], found.bridge, found.train) == (
        paper.models["audiobox"],
        paper.bridge,
        paper.train,
    )
    assert found.name == tmp_path.name


@pytest.mark.parametrize(
    ("words", "changes", "millions"),
    [
        (
            "vjepa2-vith",
            {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
            632,
        ),
        (
            "vjepa2-vitg",
            {
                "hidden_size": 1408,
                "num_hidden_layers": 40,
                "num_attention_heads": 22,
                "mlp_ratio": 48 / 11,
                "crop_size": 384,
            },
            1012,
        ),
    ],
)
def test_larger_vjepa2(
    words: str, changes: dict[str, Any], millions: float, tmp_path: Path
) -> None:
    preset = preset_of(words, tmp_path)
    encoder = VJepa2Encoder(preset.video, on_meta(lambda: VJEPA2Model(VJEPA2Config(**changes))))
    assert count(encoder.model.encoder) / 1e6 == pytest.approx(millions, rel=0.005)
    frames = np.zeros((64, preset.video.crop, preset.video.crop, 3), np.uint8)
    assert encoder.encode(frames).shape == (32, 1, preset.video.width)


def test_dinov3_large(tmp_path: Path) -> None:
    preset = preset_of("dinov3-vitl16", tmp_path)
    size: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    model = on_meta(lambda: DINOv3ViTModel(DINOv3ViTConfig(**size, num_register_tokens=4)))
    assert count(model) / 1e6 == pytest.approx(303.1, abs=0.5)
    assert DinoV3Encoder(preset.video, model).encode(
        np.zeros((20, 256, 256, 3), np.uint8)
    ).shape == (20, 1, 1024)
    assert preset.video.token_rate == load_preset("paper").video.token_rate


def test_stable_audio_open_small(tmp_path: Path) -> None:
    preset = preset_of("stable-audio-open-small", tmp_path)
    config: dict[str, Any] = load_preset("paper").backbone_config | {"sample_size": 524288}
    config["model"]["diffusion"] = {"type": "dit"} | SMALL
    config["model"]["conditioning"]["configs"] = [
        {"id": "prompt", "type": "t5", "config": {"t5_model_name": "t5-base", "max_length": 64}},
        {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 256}},
    ]
    published = preset.model("backbone").parent / "model_config.json"
    published.parent.mkdir(parents=True)
    published.write_text(json.dumps(config))
    backbone = on_meta(lambda: bare_backbone(preset))
    assert count(backbone.model) / 1e6 == pytest.approx(341, abs=0.5)  # as published
    assert backbone.diffusion_objective == "rf_denoiser"
    transformer = backbone.model.model.transformer
    bridge = on_meta(
        lambda: Bridge(
            transformer.dim, transformer.depth, (1, 1024), preset.bridge, (preset.latent_rate, 8.0)
        )
    )
    bridge.insert(backbone.model.model)
    with torch.device("meta"), bridge.conditioned_on(VideoBatch(torch.zeros(1, 88, 1, 1024)), 237):
        text, seconds = torch.zeros(1, 65, 768), torch.zeros(1, 768)
        found = backbone.model(
            torch.zeros(1, 64, 237),
            torch.zeros(1),
            cross_attn_cond=text,
            global_cond=seconds,
            use_checkpointing=False,
        )
    assert found.shape == (1, 64, 237)
    assert preset.bridge.heads * preset.bridge.head_dim == transformer.dim


@pytest.mark.slow
def test_the_worked_example_runs(api: str, few: Path, tmp_path: Path) -> None:
    (code,), (commands,) = blocks("python"), blocks("sh")
    (text,) = [block for block in blocks("toml") if 'base = "toy"' in block]
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino/preset.toml").write_text(text)
    (tmp_path / "clips").symlink_to(few)
    for command in [
        [sys.executable, "-c", code],
        *(
            [sys.executable, "-m", "foley.cli.main", *shlex.split(line)[1:]]
            for line in commands.splitlines()
        ),
    ]:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
