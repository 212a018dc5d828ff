"""Random weights in the published layouts, for the encoders that the toy preset leaves untrained."""

from __future__ import annotations

import torch

from model.presets import Preset
from model.scorers import build_audiobox, build_imagebind
from model.weights import save_weights


def write_text_encoder(preset: Preset, seed: int) -> None:
    """A random T5 encoder over bytes, as a transformers folder."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(seed)
    folder = preset.weights / "t5"
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
    T5EncoderModel(T5Config(**preset.untrained["t5"])).half().save_pretrained(folder)


def write_video_encoder(preset: Preset, seed: int) -> None:
    """A random V-JEPA2, as a transformers folder."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(seed)
    VJEPA2Model(VJEPA2Config(**preset.untrained["vjepa2"])).half().save_pretrained(preset.weights / "vjepa2")


def write_scorers(preset: Preset, seed: int) -> None:
    """Random ImageBind and Audiobox Aesthetics weights: they prove the plumbing, their scores mean nothing."""
    torch.manual_seed(seed)
    save_weights(preset.weights / "imagebind.safetensors", build_imagebind(preset).state_dict(), torch.float16)
    save_weights(preset.weights / "audiobox.safetensors", build_audiobox(preset).state_dict(), torch.float16)
