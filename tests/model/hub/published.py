"""Random weights at full size, in the layouts in which the paper's models are published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.backbone import bare_backbone
from model.hub.check import on_meta
from model.networks.audiobox import AXES, Audiobox
from model.networks.imagebind import ImageBind
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


def random_weights(module: nn.Module, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Noise in the keys and shapes of a module on the meta device."""
    drawn = NOISE.to(dtype)

    def noise(shape: torch.Size) -> Tensor:
        count = shape.numel()
        return drawn.repeat(-(-count // len(drawn)))[:count].clone().reshape(shape)

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


def write_t5(preset: Preset, dtype: torch.dtype = torch.float16, **sizes: Any) -> None:
    """T5-base as published, but for `sizes`.

    Encoder and decoder, and a tokenizer (bytes here, the vocabulary is not at hand).
    """
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    config = T5Config(**(T5_BASE | sizes))
    weights = random_weights(on_meta(lambda: T5ForConditionalGeneration(config)), dtype)
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        weights.pop(tied, None)
    assert any(key.startswith("decoder.") for key in weights)
    folder = preset.model("text")
    write(folder / "model.safetensors", weights)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)


def write_backbone(
    preset: Preset,
    change: Callable[[dict[str, Tensor]], None] = lambda weights: None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Stable Audio Open 1.0 as published.

    One file of VAE, conditioners and DiT, and its configuration.
    """
    weights = random_weights(on_meta(lambda: bare_backbone(preset)), dtype)
    change(weights)
    write(preset.model("backbone"), weights, model_config=preset.backbone_config)


def write_vjepa2(preset: Preset, dtype: torch.dtype = torch.float16, **sizes: Any) -> Any:
    """V-JEPA2 ViT-L as published, but for `sizes`; returns it without values."""
    from transformers import VJEPA2Config, VJEPA2Model

    # the defaults are those of vitl-fpc64-256
    config = VJEPA2Config(architectures=["VJEPA2Model"], **sizes)
    meta = on_meta(lambda: VJEPA2Model(config))
    weights = random_weights(meta, dtype)
    write(preset.model("video") / "model.safetensors", weights, config=config.to_dict())
    return meta


def write_imagebind(preset: Preset, dtype: torch.dtype = torch.float16) -> None:
    """ImageBind huge as published."""
    meta = on_meta(lambda: ImageBind.build(preset)).body
    write(preset.model("imagebind"), random_weights(meta, dtype))


def write_audiobox(preset: Preset, dtype: torch.dtype = torch.float16) -> None:
    """Audiobox Aesthetics as published; every score is the mean of its axis, 5 to 8."""
    weights = random_weights(Audiobox.build(preset).body, dtype)
    weights |= {
        key: torch.zeros_like(value)
        for key, value in weights.items()
        if key.startswith("proj_layer")
    }
    target = {axis: {"mean": 5.0 + i, "std": 2.0} for i, axis in enumerate(AXES)}
    write(preset.model("audiobox"), weights, config={"target_transform": target, "nth_layer": 13})
