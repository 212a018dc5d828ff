"""Audiobox Aesthetics (Tjandra et al., arXiv 2502.05139): how good is a sound?

The model is upstream's own, and sounds are cut as in its `audiobox_aesthetics/infer.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn

from model.networks.base import FrozenNetwork
from model.presets.preset import Preset
from model.types import Audio
from model.weights.load import WeightsError, files_revision

AXES = ("CE", "CU", "PC", "PQ")


def build_model(sizes: Mapping[str, object]) -> Any:
    """Upstream's AesMultiOutput, untrained; `sizes` is what differs from WavLM base."""
    from audiobox_aesthetics.model import aes

    # upstream fixes its WavLM's size in a constant of its module
    config = aes.WavLMConfig({**vars(aes.DEFAULT_AUDIO_CFG), **sizes})
    scale = {axis: {"mean": 5.0, "std": 1.0} for axis in AXES}
    with patch.object(aes, "DEFAULT_AUDIO_CFG", config):
        return aes.AesMultiOutput(nth_layer=config.encoder_layers + 1, target_transform=scale)


def scale_file(weights: Path) -> Path:
    """The JSON file beside the weights: of their own name, or `config.json` as published."""
    own = weights.with_suffix(".json")
    return own if own.is_file() else weights.parent / "config.json"


def read_scale(weights: Path) -> dict[str, dict[str, float]]:
    """Mean and deviation of each axis, which turn the network's outputs into scores.

    Raises WeightsError if they are not there: without them the scores would be on another scale.
    """
    file = scale_file(weights)
    try:
        scale = json.loads(file.read_text())["target_transform"]
        return {axis: {key: float(scale[axis][key]) for key in ("mean", "std")} for axis in AXES}
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            f"no target_transform (mean and std of {', '.join(AXES)}) in {file}: "
            "it is published beside the weights"
        ) from None


class Audiobox(FrozenNetwork):
    """Content enjoyment and usefulness, production complexity and quality of sounds."""

    name = "audiobox"
    sample_rate = 16000
    needs_memory = True  # its WavLM copies values as it is built

    def __init__(self, sizes: Mapping[str, object]) -> None:
        super().__init__()
        self.model = build_model(sizes)

    @classmethod
    def arguments(cls, preset: Preset) -> dict[str, object]:
        """See FrozenNetwork."""
        return {"sizes": preset.audiobox}

    @classmethod
    def from_pretrained(cls, preset: Preset) -> Self:
        """See FrozenNetwork."""
        network = super().from_pretrained(preset)
        network.model.target_transform = read_scale(preset.model(cls.name))
        if preset.precision.networks == "bf16":  # it leaves another's autocast
            network.model.precision, network.model.enable_autocast = torch.bfloat16, True
        return network

    def check(self, preset: Preset) -> dict[str, Tensor]:
        """See FrozenNetwork; raises WeightsError also without the scale of the scores."""
        read_scale(preset.model(self.name))
        return super().check(preset)

    @property
    def body(self) -> nn.Module:
        """See FrozenNetwork."""
        return self.model

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys as they are on the hub (safetensors), or as training left them (.pt)."""
        return {key.removeprefix("model."): value for key, value in weights.items()}

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the weights and of the scale of the scores."""
        path = preset.model(cls.name)
        return files_revision([path, scale_file(path)])

    @torch.inference_mode()
    def score(self, sounds: Sequence[Audio]) -> list[dict[str, float]]:
        """Mono audio [S] at 16 kHz of B clips -> ce, cu, pc, pq of each, about 1..10.

        Longer clips go by windows of 10 s, and windows count by their length.
        """
        from audiobox_aesthetics.infer import make_inference_batch

        waves, masks, weights, owners = make_inference_batch(
            [torch.from_numpy(sound)[None] for sound in sounds]
        )
        batch = {"wav": torch.stack(waves), "mask": torch.stack(masks)}
        outputs = self.model({key: value.to(self.device) for key, value in batch.items()})
        length, owner = torch.tensor(weights), torch.tensor(owners)
        rows: list[dict[str, float]] = [{} for _ in sounds]
        for axis in AXES:
            scale = self.model.target_transform[axis]
            values = outputs[axis].float().cpu() * scale["std"] + scale["mean"]
            for clip, row in enumerate(rows):
                own = owner == clip
                row[axis.lower()] = float((values[own] * length[own]).sum() / length[own].sum())
        return rows
