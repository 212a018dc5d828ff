"""Random weights at full size, in the layouts in which the paper's models are published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.hub.check import bare_backbone, on_meta
from model.presets.preset import Preset

T5_BASE: dict[str, Any] = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}
NOISE = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()


def random_weights(module: nn.Module) -> dict[str, Tensor]:
    """Half-precision noise in the keys and shapes of a module on the meta device."""

    def noise(shape: torch.Size) -> Tensor:
        count = shape.numel()
        return NOISE.repeat(-(-count // len(NOISE)))[:count].reshape(shape)

    return {key: noise(value.shape) for key, value in module.state_dict().items()}


def write(path: Path, weights: dict[str, Tensor], **beside: Any) -> None:
    """A published file, with JSON files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path, {"format": "pt"})
    for name, content in beside.items():
        (path.parent / f"{name}.json").write_text(json.dumps(content))


def write_t5(preset: Preset) -> None:
    """T5-base as published.

    Encoder and decoder, and a tokenizer (bytes here, the vocabulary is not at hand).
    """
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    config = T5Config(**T5_BASE)
    weights = random_weights(on_meta(lambda: T5ForConditionalGeneration(config)))
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        weights.pop(tied, None)
    assert any(key.startswith("decoder.") for key in weights)
    folder = preset.model("text")
    write(folder / "model.safetensors", weights)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)


def write_backbone(
    preset: Preset, change: Callable[[dict[str, Tensor]], None] = lambda weights: None
) -> None:
    """Stable Audio Open 1.0 as published.

    One file of VAE, conditioners and DiT, and its configuration.
    """
    weights = random_weights(on_meta(lambda: bare_backbone(preset)))
    change(weights)
    write(preset.model("backbone"), weights, model_config=preset.backbone_config)


def write_vjepa2(preset: Preset) -> Any:
    """V-JEPA2 ViT-L as published; returns it without values."""
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(architectures=["VJEPA2Model"])  # the defaults are those of vitl-fpc64-256
    meta = on_meta(lambda: VJEPA2Model(config))
    write(
        preset.model("video") / "model.safetensors", random_weights(meta), config=config.to_dict()
    )
    return meta
