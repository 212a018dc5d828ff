"""Video encoders (V-JEPA2, or DINOv3 frame by frame, both transformers') and pooling (paper section 3.3).

Shapes: T frames, J effective frames (T / 2 of V-JEPA2), G cells a side, P tokens an effective
frame, D encoder width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.presets.preset import ModelError, Preset
from model.presets.settings import VideoSettings
from model.weights.load import files_revision, load_transformers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGES = 16  # that an image encoder sees at once


def frame_times(seconds: float, fps: int) -> npt.NDArray[np.float64]:
    """Times (s) of the frames to take from a video.

    Every 1/fps, an even count, since a tubelet is two frames.
    """
    count = max(2, 2 * math.ceil(round(seconds * fps, 6) / 2))
    return np.arange(count) / fps


def pool(tokens: Tensor, per_frame: int) -> Tensor:
    """Tokens [J, G, G, D] -> [J, per_frame, D].

    Means over the cells of a square grid, 1 being the whole picture.
    """
    cells = math.isqrt(per_frame)
    if tokens.shape[1] < cells:
        raise ModelError(
            f"pooling wants a grid of {cells} x {cells}, the encoder gives {tokens.shape[1]}"
        )
    pooled = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), cells)  # [J, D, cells, cells]
    return pooled.flatten(2).transpose(1, 2)


class VideoEncoder:
    """Frozen video encoder of a preset.

    Its family (`video.encoder`) is one of the two classes below.
    """

    frames_per_token: int  # video frames that make one effective frame

    def __init__(self, settings: VideoSettings, model: Any) -> None:
        config = model.config
        if config.hidden_size != settings.width:
            raise ModelError(
                f"the encoder gives tokens of width {config.hidden_size}, video.width is {settings.width}"
            )
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        if settings.crop % config.patch_size:
            raise ModelError(
                f"video.crop = {settings.crop} is no multiple of the encoder's patches, {config.patch_size}"
            )
        self.grid: int = settings.crop // config.patch_size

    @staticmethod
    def folder(preset: Preset) -> Path:
        """Where the preset keeps the encoder's config.json and weights."""
        return preset.model("video")

    @classmethod
    def from_pretrained(cls, preset: Preset, device: str = "cpu") -> VideoEncoder:
        """Load from the preset's folder.

        Raises WeightsError or ModelError if it is not there or does not fit.
        """
        match preset.video.encoder:
            case "vjepa2":
                family, architecture = VJepa2Encoder, "VJEPA2Model"
            case "dinov3":
                family, architecture = DinoV3Encoder, "DINOv3ViTModel"
        import transformers

        model = load_transformers(getattr(transformers, architecture), cls.folder(preset))
        return family(preset.video, model.to(device))

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the encoder's weights."""
        return files_revision([cls.folder(preset)])

    def tokens(self, pixels: Tensor) -> Tensor:
        """Standardised pixels of a segment [T, 3, crop, crop] -> tokens [J, G * G, D]."""
        raise NotImplementedError

    @torch.inference_mode()
    def encode(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """RGB frames [T, crop, crop, 3] at `fps` -> pooled tokens [J, P, D], segment by segment in temporal order.

        The last segment may be shorter: it is encoded as it is, with no invented frames.
        """
        crop, whole = self.settings.crop, self.frames_per_token
        if frames.shape[1:] != (crop, crop, 3) or len(frames) % whole:
            count = "even" if whole == 2 else "T"
            raise ModelError(f"frames must be [{count}, {crop}, {crop}, 3], got {frames.shape}")
        parameter = next(self.model.parameters())
        mean, std = (
            torch.tensor(v, device=parameter.device) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        pooled: list[Tensor] = []
        for start in range(0, len(frames), self.settings.segment_frames):
            segment = torch.from_numpy(frames[start : start + self.settings.segment_frames]).to(
                parameter.device
            )
            pixels = ((segment.float() / 255 - mean) / std).permute(0, 3, 1, 2)  # [T, 3, H, W]
            tokens = self.tokens(pixels.to(parameter.dtype)).float()
            pooled.append(
                pool(tokens.unflatten(1, (self.grid, self.grid)), self.settings.tokens_per_frame)
            )
        return torch.cat(pooled)


class VJepa2Encoder(VideoEncoder):
    """V-JEPA2: one effective frame is a tubelet of two frames, and sees the whole segment."""

    frames_per_token = 2

    def __init__(self, settings: VideoSettings, model: Any) -> None:
        super().__init__(settings, model)
        if model.config.crop_size != settings.crop:
            raise ModelError(
                f"V-JEPA2 was built for {model.config.crop_size} pixels, the preset crops to {settings.crop}: "
                "another size would run with wrong positions"
            )

    def tokens(self, pixels: Tensor) -> Tensor:
        """See VideoEncoder."""
        features = self.model.get_vision_features(pixels[None])[0]  # [J * G * G, D]
        return features.unflatten(0, (-1, self.grid**2))


class DinoV3Encoder(VideoEncoder):
    """DINOv3, an image encoder: one effective frame is a frame, seen alone.

    Its positions suit any crop.
    """

    frames_per_token = 1

    def tokens(self, pixels: Tensor) -> Tensor:
        """See VideoEncoder."""
        found = [
            self.model(pixels[i : i + IMAGES]).last_hidden_state
            for i in range(0, len(pixels), IMAGES)
        ]
        return torch.cat(found)[:, -(self.grid**2) :]  # class and register tokens come first
