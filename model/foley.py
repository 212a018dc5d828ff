"""Foley Control: a frozen backbone with a trained bridge, that makes sound for video tokens and a prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.presets import BridgeSettings, ModelError, Preset, SampleSettings
from model.sampling import clip_noise, sample_velocity_model
from model.video import VideoEncoder
from model.weights import WeightsError, load_strict, read_weights, save_weights

Audio = npt.NDArray[np.float32]


def build_bridge(backbone: Backbone, video_dim: int) -> Bridge:
    """An untrained bridge of the preset's size, not yet inserted."""
    preset = backbone.preset
    transformer = backbone.dit.transformer
    rates = preset.latent_rate, preset.video.token_rate
    return Bridge(transformer.dim, transformer.depth, video_dim, preset.bridge, *rates)


def save_bridge(path: Path, bridge: Bridge, backbone: str, encoder: str) -> None:
    """Write the bridge alone, with its settings and the revisions of the backbone and the encoder it was trained on."""
    facts = {
        "settings": bridge.settings.model_dump(),
        "backbone": backbone,
        "encoder": encoder,
        "video_dim": len(bridge.null),
    }
    # one key, because the library writes several in any order and the same bridge should be the same bytes
    save_weights(path, bridge.state_dict(), metadata={"bridge": json.dumps(facts, sort_keys=True)})


def read_bridge_facts(path: Path) -> dict[str, Any]:
    """Settings and revisions of a bridge file; raises WeightsError if it is not one."""
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["bridge"])
        return facts | {"settings": BridgeSettings.model_validate(facts["settings"])}
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a bridge checkpoint of this project: {error}") from None


class FoleyControl:
    """Backbone and bridge of a preset, ready to generate."""

    def __init__(self, backbone: Backbone, bridge: Bridge) -> None:
        self.backbone = backbone
        self.bridge = bridge.eval().requires_grad_(False)
        self.preset = backbone.preset

    @classmethod
    def from_pretrained(cls, preset: Preset, bridge: Path | None = None, device: str = "cpu") -> FoleyControl:
        """Load the preset's backbone and a bridge checkpoint (None: the one shipped with the preset's weights).

        Raises WeightsError if a file is missing or does not fit, or if the bridge belongs to another backbone.
        """
        path = bridge or preset.weights / "bridge.safetensors"
        weights = read_weights(path)
        facts = read_bridge_facts(path)
        for name, revision in (("backbone", Backbone.revision(preset)), ("encoder", VideoEncoder.revision(preset))):
            if facts[name] != revision:
                raise WeightsError(f"{path} was trained on {name} {facts[name]}, preset {preset.name!r} has {revision}")
        backbone = Backbone.from_pretrained(preset.model_copy(update={"bridge": facts["settings"]}))
        found = build_bridge(backbone, facts["video_dim"])
        load_strict(found, {key: value.float() for key, value in weights.items()}, path)
        found.insert(backbone.dit)
        return cls(backbone.to(device), found.to(device))

    @torch.no_grad()
    def generate(
        self,
        video: Sequence[Tensor | None],
        prompts: Sequence[str],
        seconds: Sequence[float],
        seeds: Sequence[int],
        *,
        cfg: float | None = None,
        steps: int | None = None,
        negative_prompts: Sequence[str] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Audio]:
        """Sound [channels, round(seconds * sample_rate)] for each of B clips.

        `video` holds tokens [J, P, V] of each clip, or None for no video. A clip's sound depends on its own arguments
        alone, up to rounding, and not on the batch. Raises ModelError for a length over the preset's limit.
        """
        longest = self.preset.max_seconds
        if any(not 0 < s <= longest for s in seconds):
            raise ModelError(
                f"preset {self.preset.name!r} makes sound of up to {longest:g} s, asked for {max(seconds):g}"
            )
        lengths = [math.ceil(round(s * self.preset.latent_rate, 6)) for s in seconds]
        found: dict[int, Audio] = {}
        for length in sorted(set(lengths)):  # clips of one length make a batch: the backbone knows no padding
            rows = [i for i, n in enumerate(lengths) if n == length]
            latents = self._sample(
                [video[i] for i in rows],
                [prompts[i] for i in rows],
                [seconds[i] for i in rows],
                [seeds[i] for i in rows],
                length,
                [negative_prompts[i] for i in rows] if negative_prompts else None,
                self.preset.sample.model_copy(
                    update={k: v for k, v in {"cfg": cfg, "steps": steps}.items() if v is not None}
                ),
                on_step,
            )
            audio = self.backbone.decode_audio(latents).float().cpu().numpy()  # [rows, channels, S]
            for row, wave in zip(rows, audio, strict=True):
                found[row] = wave[:, : round(seconds[row] * self.preset.sample_rate)]
        return [found[i] for i in range(len(lengths))]

    def _sample(
        self,
        video: Sequence[Tensor | None],
        prompts: Sequence[str],
        seconds: Sequence[float],
        seeds: Sequence[int],
        length: int,
        negative: Sequence[str] | None,
        settings: SampleSettings,
        on_step: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Latents [B, C, length] of clips of one length."""
        backbone = self.backbone
        tokens, frames, seen = self._pad_video(video, length)
        texts = backbone.encode_text(prompts)
        conditioning = backbone.conditioning(texts, seconds)
        against = backbone.conditioning(backbone.encode_text(negative), seconds) if negative else None
        noise = clip_noise(seeds, backbone.model.io_channels, length).to(backbone.device)
        with self.bridge.watching(tokens, length, frames=frames, seen=seen, sampling=True):
            inputs = backbone.inputs(conditioning, against)
            return sample_velocity_model(backbone, noise, seeds, settings, on_step, **inputs)

    def _pad_video(self, video: Sequence[Tensor | None], length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, J, P, V] zero-padded to the longest clip, frames [B] of each, and which clips have video [B]."""
        width = len(self.bridge.null)
        given = [v for v in video if v is not None]
        cells = given[0].shape[1] if given else 1
        default = math.ceil(length / self.preset.latent_rate * self.bridge.token_rate)
        counts = [default if v is None else len(v) for v in video]
        rows = [
            torch.zeros(max(counts), cells, width)
            if v is None
            else F.pad(v.float(), (0, 0, 0, 0, 0, max(counts) - len(v)))
            for v in video
        ]
        device = self.backbone.device
        seen = torch.tensor([v is not None for v in video], device=device)
        return torch.stack(rows).to(device), torch.tensor(counts, device=device), seen
