"""Frozen video encoders (V-JEPA2, or DINOv3 frame by frame) and pooling (paper section 3.3).

Shapes: T frames, J effective frames (T / 2 of V-JEPA2), G cells a side, P tokens an effective
frame, D encoder width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.presets.preset import Preset
from model.presets.settings import ENCODERS, ModelError, VideoSettings
from model.types import Frames, Times
from model.weights.load import files_revision, load_transformers

PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")  # as published
IMAGES = 16  # that an image encoder sees at once


def frame_times(seconds: float, fps: int) -> Times:
    """Times (s) of the frames to take: one every 1 / fps, an even count (tubelets are of two)."""
    count = max(2, 2 * math.ceil(round(seconds * fps, 6) / 2))
    return np.arange(count) / fps


def pool(tokens: Tensor, per_frame: int) -> Tensor:
    """Tokens [J, G, G, D] -> means over the cells of a square grid [J, per_frame, D]."""
    cells = math.isqrt(per_frame)
    if tokens.shape[1] < cells:
        raise ModelError(
            f"pooling wants a grid of {cells} x {cells}, the encoder gives {tokens.shape[1]}"
        )
    pooled = F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), cells)  # [J, D, cells, cells]
    return pooled.flatten(2).transpose(1, 2)


class VideoEncoder:
    """A family of frozen video encoders; `video.encoder` of a preset names a subclass.

    A subclass says what its published encoders have in common, and turns pixels into tokens.
    """

    architecture: ClassVar[str]  # the class of transformers
    frames_per_token: ClassVar[int]  # video frames that make one effective frame
    sees_segment: ClassVar[bool] = True  # whether a token depends on other frames of its segment
    # of RGB in 0..1, where no processor's configuration lies beside the weights: ImageNet's
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __init__(self, settings: VideoSettings, model: Any) -> None:
        """Raises ModelError where `model` does not give what the preset's settings say."""
        width, patch = model.config.hidden_size, model.config.patch_size
        if width != settings.width:
            raise ModelError(
                f"the encoder gives tokens of width {width}, video.width is {settings.width}"
            )
        if settings.crop % patch:
            raise ModelError(
                f"video.crop = {settings.crop} is no multiple of the encoder's patches, {patch}"
            )
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        self.grid: int = settings.crop // patch

    @classmethod
    def from_pretrained(cls, preset: Preset, device: str = "cpu") -> VideoEncoder:
        """The preset's encoder, with its weights and what its pixels are standardised by.

        Raises WeightsError or ModelError if they are not there or do not fit.
        """
        import transformers

        family, folder = preset.video.family, preset.model("video")
        model = load_transformers(getattr(transformers, family.architecture), folder)
        encoder = family(preset.video, model.to(device))
        encoder.read_processor(folder)
        return encoder

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the encoder's folder; a class of one's own is part of it."""
        name, revision = preset.video.encoder, files_revision([preset.model("video")])
        return revision if name in ENCODERS else f"{revision} {name.rpartition('/')[2]}"

    def read_processor(self, folder: Path) -> None:
        """Take mean and deviation from the configuration of the published processor, if any.

        Raises ModelError where they are no three numbers each, of pixels in 0..1.
        """
        file = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
        if file is None:
            return
        try:
            published: dict[str, Any] = json.loads(file.read_text())
            config: dict[str, Any] = {"rescale_factor": 1 / 255, "do_normalize": True, **published}
            mean, std = (tuple(map(float, config[name])) for name in ("image_mean", "image_std"))
            fits = math.isclose(config["rescale_factor"], 1 / 255) and config["do_normalize"]
        except (OSError, ValueError, KeyError, TypeError):
            fits, mean, std = False, (), ()
        if not (fits and len(mean) == len(std) == 3):
            raise ModelError(
                f"{file} must say image_mean and image_std of pixels in 0..1, three numbers each"
            )
        self.mean, self.std = mean, std

    def tokens(self, pixels: Tensor) -> Tensor:
        """Standardised pixels of a segment [T, 3, crop, crop] -> tokens [J, G * G, D]."""
        raise NotImplementedError

    def encode(self, frames: Frames) -> Tensor:
        """Pooled tokens [J, P, D] of a whole video [T, crop, crop, 3]: see `encode_segments`."""
        size = self.settings.segment_frames
        starts = range(0, len(frames), size)
        return torch.cat(list(self.encode_segments(frames[i : i + size] for i in starts)))

    @torch.inference_mode()
    def encode_segments(self, segments: Iterable[Frames]) -> Iterator[Tensor]:
        """Pooled tokens of each segment of a video, of which no more than two are held.

        A last segment that is shorter is seen with the frames before it, as many as a segment has,
        and only its own tokens are kept: those of two frames alone would lie far from those of the
        same frames in a whole segment. A video of less than a segment is seen as it is, with no
        invented frames.

        Args:
            segments: RGB [T, crop, crop, 3] at `settings.fps`, each of `segment_frames` frames, the
                last one of fewer.

        Yields:
            Tokens [J, P, D] in temporal order, on the encoder's device.

        Raises:
            ModelError: frames have another shape.
        """
        settings, whole = self.settings, self.frames_per_token
        crop, before = settings.crop, None
        for frames in segments:
            if frames.shape[1:] != (crop, crop, 3) or len(frames) % whole:
                count = "T" if whole == 1 else f"a multiple of {whole}"
                raise ModelError(f"frames must be [{count}, {crop}, {crop}, 3], got {frames.shape}")
            missing = settings.segment_frames - len(frames)
            if before is None or missing == 0 or not self.sees_segment:
                yield self._encode(frames)
            else:
                seen = np.concatenate([before[-missing:], frames])
                yield self._encode(seen)[missing // whole :]
            before = frames

    def _encode(self, frames: Frames) -> Tensor:
        """Pooled tokens [J, P, D] of the frames [T, crop, crop, 3] of a segment."""
        parameter = next(self.model.parameters())
        mean, std = (torch.tensor(v, device=parameter.device) for v in (self.mean, self.std))
        values = torch.from_numpy(frames).to(parameter.device).float() / 255
        pixels = ((values - mean) / std).permute(0, 3, 1, 2)  # [T, 3, H, W]
        tokens = self.tokens(pixels.to(parameter.dtype)).float()
        return pool(tokens.unflatten(1, (self.grid, self.grid)), self.settings.tokens_per_frame)


class VJepa2Encoder(VideoEncoder):
    """V-JEPA2: an effective frame is a tubelet of two frames, and sees the whole segment."""

    architecture = "VJEPA2Model"
    frames_per_token = 2

    def __init__(self, settings: VideoSettings, model: Any) -> None:
        super().__init__(settings, model)
        size, tubelet = model.config.crop_size, model.config.tubelet_size
        if size != settings.crop:
            raise ModelError(
                f"V-JEPA2 was built for {size} pixels, the preset crops to {settings.crop}: "
                "another size would run with wrong positions"
            )
        if tubelet != self.frames_per_token:
            raise ModelError(f"its tubelets are of {tubelet} frames, not {self.frames_per_token}")

    def tokens(self, pixels: Tensor) -> Tensor:
        """See VideoEncoder."""
        features = self.model.get_vision_features(pixels[None])[0]  # [J * G * G, D]
        return features.unflatten(0, (-1, self.grid**2))


class DinoV3Encoder(VideoEncoder):
    """DINOv3, an image encoder: every frame is seen alone, and its positions suit any crop."""

    architecture = "DINOv3ViTModel"
    frames_per_token = 1
    sees_segment = False

    def tokens(self, pixels: Tensor) -> Tensor:
        """See VideoEncoder."""
        parts = [self.model(part).last_hidden_state for part in pixels.split(IMAGES)]
        return torch.cat(parts)[:, -(self.grid**2) :]  # class and register tokens come first
