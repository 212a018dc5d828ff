"""The models behind `foley generate`, on a device.

From the frames of a video and a prompt to sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.foley import FoleyControl, read_bridge_facts
from model.presets.preset import ModelError, Preset
from model.video_encoder import VideoEncoder, frame_times
from pipeline.generation.provenance import bridge_facts, code_version
from pipeline.generation.requests import Request
from pipeline.media import Framing, read_segments

Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """How sound is made, where that is not the preset's own way."""

    cfg: float | None = None
    video_cfg: float | None = None
    steps: int | None = None
    device: str = "auto"  # auto: cuda where there is one, else cpu
    batch: int = 8  # sounds of one length that are made at once


class Dubber:
    """The models of a preset, ready to make sound for files.

    `bridge` None is the one shipped with the preset.
    """

    def __init__(
        self, preset: Preset, bridge: Path | None = None, options: Options | None = None
    ) -> None:
        self.preset = preset
        self.options = options or Options()
        self.device = choose_device(self.options.device)
        half = torch.bfloat16 if self.device.startswith("cuda") else torch.float32
        self.encoder = VideoEncoder.from_pretrained(preset, self.device)
        self.encoder.model.to(half)
        self.foley = FoleyControl.from_pretrained(preset, bridge).to(self.device, half)
        path = bridge or preset.weights / "bridge.safetensors"
        trained = read_bridge_facts(path)  # on these models: else it would not have loaded
        self.made_by = {
            "preset": preset.name,
            "backbone": trained["backbone"],
            "encoder": trained["encoder"],
            **bridge_facts(path),
            "settings": self._settings(),
            "device": torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu",
            "precision": str(half).removeprefix("torch."),
            "code": code_version(),
        }

    def _settings(self) -> dict[str, Any]:
        given = {name: getattr(self.options, name) for name in ("cfg", "video_cfg", "steps")}
        sample = self.preset.sample.model_dump(exclude={"fast_steps"})
        return (
            sample
            | {k: v for k, v in given.items() if v is not None}
            | {"window": self.preset.window.model_dump()}
        )

    def tokens(self, video: Path, seconds: float) -> Tensor:
        """Video tokens [J, P, V] of a whole file, read and encoded segment by segment."""
        settings = self.preset.video
        times, framing = (
            frame_times(seconds, settings.fps),
            Framing(settings.short_side, settings.crop),
        )
        segments = read_segments(video, times, framing, settings.segment_frames)
        return torch.cat([self.encoder.encode(segment).cpu() for segment in segments])

    def sounds(
        self,
        requests: Sequence[Request],
        tokens: Sequence[Tensor],
        seconds: Sequence[float],
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Audio]:
        """Sound [channels, S] of each request."""
        options = self.options
        return self.foley.generate(
            tokens,
            [request.prompt for request in requests],
            seconds,
            [request.seed for request in requests],
            cfg=options.cfg,
            video_cfg=options.video_cfg,
            steps=options.steps,
            negative_prompts=[request.negative_prompt for request in requests],
            on_step=on_step,
        )

    def latents(self, seconds: float) -> int:
        """Latent frames of so many seconds: what has as many can be made in one batch."""
        return math.ceil(round(seconds * self.preset.latent_rate, 6))


def choose_device(name: str) -> str:
    """`auto` is cuda where there is one, else cpu.

    Raises ModelError for cuda where there is none.
    """
    found = torch.cuda.is_available()
    if name.startswith("cuda") and not found:
        raise ModelError(
            f"device {name!r} was asked for, but torch finds no CUDA device here: use --device cpu"
        )
    return name if name != "auto" else "cuda" if found else "cpu"
