"""Whether the weights of a preset fit their architectures, without memory for the large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import init_empty_weights
from torch import nn

from model.backbone import create_backbone
from model.networks.audiobox import build_audiobox, read_audiobox, read_target_transform
from model.networks.imagebind import build_imagebind
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import Preset
from model.video_encoder import VideoEncoder
from model.weights.load import check_strict, load_transformers, read_weights


def parameters(preset: Preset, name: str) -> int:
    """Parameters of one of a preset's models, whose weights fit strictly.

    Raises WeightsError or ModelError if not.
    """
    path = preset.model(name)
    match name:
        case "backbone":
            module = on_meta(lambda: bare_backbone(preset))
            check_strict(module, read_weights(path), path)
        case "text":
            from transformers import T5EncoderModel

            module = load_transformers(T5EncoderModel, path)
        case "video":
            module = VideoEncoder.from_pretrained(preset).model
        case "imagebind":
            module = on_meta(lambda: build_imagebind(preset))
            check_strict(module, read_weights(path), path)
        case "audiobox":
            module = build_audiobox(preset)
            read_target_transform(path)
            check_strict(module, read_audiobox(path), path)
        case _:
            kind = {network.stem: network for network in (Cnn14, Passt, VGGish, Synchformer)}[name]
            module = on_meta(lambda: kind(**kind.settings(preset)))
            check_strict(module, kind.published(read_weights(path)), path)
    return count(module)


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, with shapes and no values.

    Buffers have some until then: builders read them.
    """
    with init_empty_weights():
        return build().to("meta")


def bare_backbone(preset: Preset) -> Any:
    """The backbone without its text encoder, whose weights are not in its file."""
    config = preset.backbone_config
    conditioning = config["model"]["conditioning"]
    conditioning["configs"] = [entry for entry in conditioning["configs"] if entry["type"] != "t5"]
    return create_backbone(config)
