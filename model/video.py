"""Video encoder: frozen V-JEPA2 (transformers' VJEPA2Model) and the pooling of its tokens (paper section 3.3).

Shapes: T frames, J = T / 2 effective frames (tubelets), P tokens an effective frame, D encoder width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.presets import ModelError, Preset, VideoSettings
from model.weights import files_revision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def frame_times(seconds: float, fps: int) -> npt.NDArray[np.float64]:
    """Times (s) of the frames to take from a video: every 1/fps, an even count, since a tubelet is two frames."""
    count = max(2, 2 * math.ceil(round(seconds * fps, 6) / 2))
    return np.arange(count) / fps


def pool(tokens: Tensor, per_frame: int) -> Tensor:
    """Tokens [J, G, G, D] -> [J, per_frame, D]: means over the cells of a square grid, 1 being the whole picture."""
    cells = math.isqrt(per_frame)
    if tokens.shape[1] < cells:
        raise ModelError(f"pooling wants a grid of {cells} x {cells}, the encoder gives {tokens.shape[1]}")
    pooled = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), cells)  # [J, D, cells, cells]
    return pooled.flatten(2).transpose(1, 2)


class VideoEncoder:
    """Frozen V-JEPA2 of a preset."""

    def __init__(self, settings: VideoSettings, model: Any) -> None:
        if model.config.crop_size != settings.crop:
            raise ModelError(
                f"V-JEPA2 was built for {model.config.crop_size} pixels, the preset crops to {settings.crop}: "
                "another size would run with wrong positions"
            )
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        self.grid: int = model.config.crop_size // model.config.patch_size

    @staticmethod
    def folder(preset: Preset) -> Path:
        """Where the preset keeps V-JEPA2's config.json and weights."""
        return preset.weights / "vjepa2"

    @classmethod
    def from_pretrained(cls, preset: Preset, device: str = "cpu") -> VideoEncoder:
        """Load from the preset's `vjepa2` folder; raises ModelError if it is not there or does not fit."""
        from transformers import VJEPA2Model

        folder = cls.folder(preset)
        if not (folder / "config.json").is_file():
            raise ModelError(f"no V-JEPA2 weights at {folder}")
        model = cast("Any", VJEPA2Model.from_pretrained(folder, dtype=torch.float32))
        return cls(preset.video, model.to(device))

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the encoder's weights."""
        return files_revision([cls.folder(preset)])

    @torch.inference_mode()
    def encode(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """RGB frames [T, crop, crop, 3] at `fps` -> pooled tokens [J, P, D], segment by segment in temporal order.

        The last segment may be shorter: it is encoded as it is, with no invented frames.
        """
        if frames.shape[1:] != (self.settings.crop, self.settings.crop, 3) or len(frames) % 2:
            raise ModelError(
                f"frames must be [even, {self.settings.crop}, {self.settings.crop}, 3], got {frames.shape}"
            )
        parameter = next(self.model.parameters())
        mean, std = (torch.tensor(v, device=parameter.device) for v in (IMAGENET_MEAN, IMAGENET_STD))
        pooled: list[Tensor] = []
        for start in range(0, len(frames), self.settings.segment_frames):
            segment = torch.from_numpy(frames[start : start + self.settings.segment_frames]).to(parameter.device)
            pixels = ((segment.float() / 255 - mean) / std).permute(0, 3, 1, 2)[None]  # [1, T, 3, H, W]
            tokens = self.model.get_vision_features(pixels.to(parameter.dtype))[0]  # [J * G * G, D]
            tokens = tokens.view(-1, self.grid, self.grid, tokens.shape[-1])
            pooled.append(pool(tokens.float(), self.settings.tokens_per_frame))
        return torch.cat(pooled)
