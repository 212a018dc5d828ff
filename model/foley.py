"""Foley Control: a frozen backbone with a trained bridge makes sound for video and a prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.backbone import Backbone, Conditioning
from model.bridge import Bridge, VideoBatch
from model.presets.preset import ModelError, Preset
from model.presets.settings import BridgeSettings, SampleSettings
from model.sampling.guidance import Guidance
from model.sampling.samplers import clip_noise, sample_velocity_model
from model.sampling.windows import Window, cross_fades, decode_in_pieces, plan_windows
from model.types import Audio
from model.video_encoder import VideoEncoder
from model.weights.load import WeightsError, load_strict, read_weights, save_weights

TEXTS = 16  # prompts encoded at once
CACHED_TEXTS = 256  # prompts whose tokens are cached: 0.4 MB each at full size


@dataclass(frozen=True)
class SoundRequest:
    """One sound to make.

    Attributes:
        prompt: what is to be heard.
        seconds: length of the sound.
        seed: of its noise; the same request gives the same sound.
        video: tokens [J, P, V]; None for no video.
        negative_prompt: what is not to be heard; None or "" for nothing.

    """

    prompt: str
    seconds: float
    seed: int = 0
    video: Tensor | None = None
    negative_prompt: str | None = None


def build_bridge(backbone: Backbone, video_dim: int) -> Bridge:
    """An untrained bridge of the preset's size, not yet inserted."""
    preset, transformer = backbone.preset, backbone.dit.transformer
    rates = preset.latent_rate, preset.video.token_rate
    return Bridge(transformer.dim, transformer.depth, video_dim, preset.bridge, rates)


def save_bridge(path: Path, bridge: Bridge, backbone: str, encoder: str) -> None:
    """Write the bridge alone, with its settings and the revisions it was trained on."""
    facts = {
        "settings": bridge.settings.model_dump(),
        "backbone": backbone,
        "encoder": encoder,
        "video_dim": len(bridge.null),
    }
    # One key, because the library writes several in any order, and the same bridge should be the
    # same bytes.
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
        self._encoded: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, preset: Preset, bridge: Path | None = None, device: str = "cpu"
    ) -> FoleyControl:
        """Load the preset's backbone and a bridge (None: the one beside the preset's weights).

        Raises WeightsError if a file is missing or does not fit, or if the bridge was trained on
        another backbone or encoder.
        """
        path = bridge or preset.weights / "bridge.safetensors"
        weights = read_weights(path)
        facts = read_bridge_facts(path)
        revisions = {
            "backbone": Backbone.revision(preset),
            "encoder": VideoEncoder.revision(preset),
        }
        for name, revision in revisions.items():
            if facts[name] != revision:
                raise WeightsError(
                    f"{path} was trained on {name} {facts[name]}, "
                    f"preset {preset.name!r} has {revision}"
                )
        backbone = Backbone.from_pretrained(preset.model_copy(update={"bridge": facts["settings"]}))
        layers = build_bridge(backbone, facts["video_dim"])
        load_strict(layers, {key: value.float() for key, value in weights.items()}, path)
        layers.insert(backbone.dit)
        if preset.sample.compile:
            backbone.compile_blocks()
        return cls(backbone.to(device), layers.to(device))

    def to(self, device: str, dtype: torch.dtype | None = None) -> FoleyControl:
        """Move to a device; `dtype` is that of the DiT with its bridge, the rest stays as it is.

        Raises ModelError for a device that is not there.
        """
        try:
            self.backbone.to(device)
            self.bridge.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"device {device!r} cannot be used: {reason}") from None
        self.backbone.dit.to(dtype)  # the layers of the bridge are in it
        return self

    def latent_frames(self, seconds: float) -> int:
        """Latent frames of so many seconds: sounds that have as many make one batch."""
        return math.ceil(round(seconds * self.preset.latent_rate, 6))

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[SoundRequest],
        settings: SampleSettings | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Audio]:
        """Make the sound of each request, of any length.

        A sound depends on its own request alone, up to rounding, and not on the others. What is
        longer than the preset's `window.seconds` is made in overlapping windows
        (model/sampling/windows.py); guidance is in model/sampling/guidance.py.

        Args:
            requests: what to make; those of one length are sampled as one batch.
            settings: sampler, steps and guidance; None for the preset's.
            on_step: called with the steps done and their number, for each length anew.

        Returns:
            Samples [channels, round(seconds * sample_rate)] of each request, at the preset's rate.

        Raises:
            ModelError: a request for 0 s.

        """
        if any(request.seconds <= 0 for request in requests):
            shortest = min(request.seconds for request in requests)
            raise ModelError(f"sound of {shortest:g} s was asked for: it must be longer than 0 s")
        lengths = [self.latent_frames(request.seconds) for request in requests]
        longest = round(self.preset.window.seconds * self.preset.latent_rate)
        sounds: dict[int, Audio] = {}
        for length in sorted(set(lengths)):  # one length a batch: the backbone knows no padding
            rows = [i for i, n in enumerate(lengths) if n == length]
            batch = [requests[i] for i in rows]
            latents = self._sample(batch, length, settings or self.preset.sample, on_step)
            audio = torch.cat(list(decode_in_pieces(self.backbone, latents, longest)), dim=-1)
            for i, wave in zip(rows, audio.numpy(), strict=True):
                sounds[i] = wave[:, : round(requests[i].seconds * self.preset.sample_rate)]
        return [sounds[i] for i in range(len(requests))]

    def _sample(
        self,
        requests: Sequence[SoundRequest],
        length: int,
        settings: SampleSettings,
        on_step: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Latents [B, C, length] of requests of one length."""
        backbone, window = self.backbone, self.preset.window
        windows = plan_windows(length, self.bridge.latent_rate, self.bridge.token_rate, window)
        # The DiT is told the length of what it makes at once.
        seconds = [r.seconds if len(windows) == 1 else window.seconds for r in requests]
        conditioning = backbone.conditioning(self._texts([r.prompt for r in requests]), seconds)
        negative = self._negative([r.negative_prompt for r in requests], seconds)
        inputs = backbone.inputs(conditioning, negative)
        guidance = Guidance(settings.cfg, settings.video_cfg)
        videos = guidance.videos([r.video for r in requests])
        seeds = [r.seed for r in requests]
        noise = clip_noise(seeds, backbone.model.io_channels, length).to(backbone.device)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return guidance.velocity(backbone, x, t, inputs).to(x.dtype)

        if len(windows) == 1:
            with self._conditioned_on(videos, windows[0], cache=True):
                return sample_velocity_model(velocity, noise, seeds, settings, on_step)
        fades = [fade.to(noise.device) for fade in cross_fades(windows)]

        def joined(x: Tensor, t: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for part, fade in zip(windows, fades, strict=True):
                here = slice(part.start, part.stop)
                # No cache: keys and values of all windows would grow with the length.
                with self._conditioned_on(videos, part):
                    total[..., here] += velocity(x[..., here], t) * fade
            return total

        return sample_velocity_model(joined, noise, seeds, settings, on_step)

    def _negative(
        self, prompts: Sequence[str | None], seconds: Sequence[float]
    ) -> Conditioning | None:
        """Conditioning of negative prompts, masked (which means zeros) for clips that have none."""
        if not any(prompts):
            return None
        given = torch.tensor([bool(prompt) for prompt in prompts], device=self.backbone.device)
        texts = self._texts([prompt or "" for prompt in prompts])
        conditioning = self.backbone.conditioning(texts, seconds)
        return {
            name: (tokens, mask.bool() & given[:, None])
            for name, (tokens, mask) in conditioning.items()
        }

    def _texts(self, prompts: Sequence[str]) -> list[Tensor]:
        """Text tokens [N, D] of each prompt; the last CACHED_TEXTS prompts stay encoded."""
        new = sorted(set(prompts) - self._encoded.keys())
        for start in range(0, len(new), TEXTS):
            some = new[start : start + TEXTS]
            self._encoded.update(zip(some, self.backbone.encode_text(some), strict=True))
        texts = [self._encoded[prompt] for prompt in prompts]
        for prompt in list(self._encoded)[:-CACHED_TEXTS]:
            del self._encoded[prompt]
        return texts

    def _conditioned_on(
        self, videos: Sequence[Tensor | None], window: Window, cache: bool = False
    ) -> AbstractContextManager[None]:
        """The bridge, attending to the part of each video [J, P, V] that lies in a window."""
        device, count = self.backbone.device, window.last - window.first
        cells = next((video.shape[1] for video in videos if video is not None), 1)
        nothing = torch.zeros(count, cells, len(self.bridge.null))
        rows = [
            nothing if video is None else video[window.first : window.last].float()
            for video in videos
        ]
        batch = VideoBatch(
            tokens=pad_sequence(rows, batch_first=True).to(device),
            frames=torch.tensor([len(row) for row in rows], device=device),
            seen=torch.tensor([video is not None for video in videos], device=device),
            offset=window.offset,
        )
        return self.bridge.conditioned_on(batch, window.length, cache)
