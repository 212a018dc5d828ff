"""Curation scorers: ImageBind audio-video cosine and Audiobox Aesthetics, as upstream's own model classes.

Input preparation follows upstream (imagebind/data.py, audiobox_aesthetics/infer.py); reading files
is left out, since this project decodes media itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.device import default_device
from model.presets.preset import Preset
from model.weights.load import WeightsError, files_revision, load_strict, read_weights

AXES = ("CE", "CU", "PC", "PQ")


def build_audiobox(preset: Preset) -> Any:
    """An untrained AesMultiOutput.

    Upstream fixes its WavLM's size in a module constant, so that is varied.
    """
    from audiobox_aesthetics.model import aes

    config = aes.WavLMConfig(vars(aes.DEFAULT_AUDIO_CFG) | preset.audiobox)
    layers = int(config.encoder_layers) + 1
    target = {axis: {"mean": 5.0, "std": 1.0} for axis in AXES}
    with patch.object(aes, "DEFAULT_AUDIO_CFG", config):
        return (
            aes.AesMultiOutput(nth_layer=layers, target_transform=target)
            .eval()
            .requires_grad_(False)
        )


def read_audiobox(path: Path) -> dict[str, Tensor]:
    """Weights of Audiobox Aesthetics as published, on the hub (safetensors) or as its training left them (.pt)."""
    return {key.removeprefix("model."): value for key, value in read_weights(path).items()}


def _audiobox_config(path: Path) -> Path:
    own = path.with_suffix(".json")
    return own if own.is_file() else path.parent / "config.json"


def read_target_transform(path: Path) -> dict[str, dict[str, float]]:
    """Mean and deviation of each axis, which turn the network's outputs into scores, from the config.json beside.

    Raises WeightsError if they are not there: without them the scores would be on another scale.
    """
    config = _audiobox_config(path)
    try:
        found = json.loads(config.read_text())["target_transform"]
        return {
            axis: {"mean": float(found[axis]["mean"]), "std": float(found[axis]["std"])}
            for axis in AXES
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            f"no target_transform (mean and std of {', '.join(AXES)}) in {config}: it is published beside the weights"
        ) from None


class AudioboxScorer:
    """Audiobox Aesthetics: content enjoyment and usefulness, production complexity and quality."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def from_pretrained(cls, preset: Preset) -> AudioboxScorer:
        """Load the weights (published key layout) strictly, with the scale of the scores that belongs to them."""
        path = preset.model("audiobox")
        model = build_audiobox(preset)
        load_strict(model, read_audiobox(path), path)
        model.target_transform = read_target_transform(path)
        return cls(model.to(default_device()))

    @staticmethod
    def revision(preset: Preset) -> str:
        """Content hash of the weights."""
        return files_revision(
            [preset.model("audiobox"), _audiobox_config(preset.model("audiobox"))]
        )

    @torch.inference_mode()
    def score(self, audio: Sequence[npt.NDArray[np.float32]]) -> list[dict[str, float]]:
        """Mono audio [S] at 16 kHz of B clips -> CE, CU, PC, PQ of each, about 1..10.

        Longer clips by 10 s windows.
        """
        from audiobox_aesthetics.infer import make_inference_batch

        waves, masks, weights, owners = make_inference_batch(
            [torch.from_numpy(a)[None] for a in audio]
        )
        device = next(self.model.parameters()).device
        batch = {"wav": torch.stack(waves).to(device), "mask": torch.stack(masks).to(device)}
        predicted = cast(
            "dict[str, Tensor]", {axis: found.cpu() for axis, found in self.model(batch).items()}
        )
        share, owner = torch.tensor(weights), torch.tensor(owners)
        scores: list[dict[str, float]] = []
        for clip in range(len(audio)):
            mine = owner == clip
            row: dict[str, float] = {}
            for axis in AXES:
                scale = self.model.target_transform[axis]
                values = predicted[axis][mine] * scale["std"] + scale["mean"]
                row[axis.lower()] = float((values * share[mine]).sum() / share[mine].sum())
            scores.append(row)
        return scores
