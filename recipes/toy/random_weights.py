"""Random weights in the published layouts, for the encoders that the toy preset leaves untrained."""

from __future__ import annotations

import json
from typing import Any

import torch

from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.presets.preset import Preset
from model.weights.load import save_weights


def write_text_encoder(preset: Preset, seed: int) -> None:
    """A random T5 encoder over bytes, as a transformers folder."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(seed)
    folder = preset.model("text")
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
    T5EncoderModel(T5Config(**preset.untrained["t5"])).half().save_pretrained(folder)


def build_video_encoder(preset: Preset, seed: int) -> Any:
    """A random V-JEPA2 of the preset's size (transformers' VJEPA2Model, with its predictor)."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(seed)
    return VJEPA2Model(VJEPA2Config(**preset.untrained["vjepa2"]))


def write_scorers(preset: Preset, seed: int) -> None:
    """Random ImageBind and Audiobox Aesthetics weights.

    They prove the plumbing, their scores mean nothing.
    """
    torch.manual_seed(seed)
    save_weights(
        preset.model("imagebind"), ImageBind.build(preset).body.state_dict(), torch.float16
    )
    audiobox = Audiobox.build(preset).model
    save_weights(preset.model("audiobox"), audiobox.state_dict(), torch.float16)
    scale = json.dumps({"target_transform": audiobox.target_transform}, indent=1)
    preset.model("audiobox").with_suffix(".json").write_text(scale + "\n")
