"""Foley Control.

A frozen backbone with a trained bridge, that makes sound for video tokens and a prompt.
"""

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

from model.backbone import Backbone, Conditioning
from model.bridge import Bridge
from model.presets.preset import ModelError, Preset
from model.presets.settings import BridgeSettings, SampleSettings
from model.sampling.guidance import Guidance
from model.sampling.samplers import clip_noise, sample_velocity_model
from model.sampling.windows import Window, cross_fades, decode_in_pieces, plan_windows
from model.video_encoder import VideoEncoder
from model.weights.load import WeightsError, load_strict, read_weights, save_weights

Audio = npt.NDArray[np.float32]
TEXTS = 16  # prompts encoded at once
KEPT_TEXTS = 256  # whose tokens are kept: 0.4 MB each at full size


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
    # one key, because the library writes several in any order and the same bridge should be the
    # same bytes
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
        """Load the preset's backbone and a bridge checkpoint (None: the one shipped with the preset's weights).

        Raises WeightsError if a file is missing or does not fit, or if the bridge belongs to
        another backbone.
        """
        path = bridge or preset.weights / "bridge.safetensors"
        weights = read_weights(path)
        facts = read_bridge_facts(path)
        for name, revision in (
            ("backbone", Backbone.revision(preset)),
            ("encoder", VideoEncoder.revision(preset)),
        ):
            if facts[name] != revision:
                raise WeightsError(
                    f"{path} was trained on {name} {facts[name]}, preset {preset.name!r} has {revision}"
                )
        backbone = Backbone.from_pretrained(preset.model_copy(update={"bridge": facts["settings"]}))
        found = build_bridge(backbone, facts["video_dim"])
        load_strict(found, {key: value.float() for key, value in weights.items()}, path)
        found.insert(backbone.dit)
        if preset.sample.compile:
            backbone.compile_blocks()
        return cls(backbone.to(device), found.to(device))

    def to(self, device: str, dtype: torch.dtype | None = None) -> FoleyControl:
        """Move to a device; `dtype` is that of the DiT with its bridge (the VAE and the text encoder stay as they are).

        Raises ModelError for a device that is not there.
        """
        try:
            self.backbone.to(device)
            self.bridge.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"device {device!r} cannot be used: {str(error).splitlines()[0]}"
            ) from None
        self.backbone.dit.to(dtype)  # the layers of the bridge are in it
        return self

    @torch.no_grad()
    def generate(
        self,
        video: Sequence[Tensor | None],
        prompts: Sequence[str],
        seconds: Sequence[float],
        seeds: Sequence[int],
        *,
        cfg: float | None = None,
        video_cfg: float | None = None,
        steps: int | None = None,
        negative_prompts: Sequence[str | None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Audio]:
        """Sound [channels, round(seconds * sample_rate)] for each of B clips, of any length.

        `video` holds tokens [J, P, V] of each clip, or None for no video. A clip's sound depends on
        its own arguments alone, up to rounding, and not on the batch. A negative prompt of None or
        "" is none. What is longer than the preset's `window.seconds` is made in overlapping windows
        (model/sampling/windows.py); guidance is in model/sampling/guidance.py. Raises ModelError
        for a length of 0.
        """
        if any(s <= 0 for s in seconds):
            raise ModelError(
                f"sound of {min(seconds):g} s was asked for: it must be longer than 0 s"
            )
        given = {"cfg": cfg, "video_cfg": video_cfg, "steps": steps}
        settings = self.preset.sample.model_copy(
            update={k: v for k, v in given.items() if v is not None}
        )
        lengths = [math.ceil(round(s * self.preset.latent_rate, 6)) for s in seconds]
        found: dict[int, Audio] = {}
        for length in sorted(
            set(lengths)
        ):  # clips of one length make a batch: the backbone knows no padding
            rows = [i for i, n in enumerate(lengths) if n == length]
            latents = self._sample(
                [video[i] for i in rows],
                [prompts[i] for i in rows],
                [seconds[i] for i in rows],
                [seeds[i] for i in rows],
                length,
                [negative_prompts[i] if negative_prompts else None for i in rows],
                settings,
                on_step,
            )
            longest = round(self.preset.window.seconds * self.preset.latent_rate)
            audio = torch.cat(
                list(decode_in_pieces(self.backbone, latents, longest)), dim=-1
            ).numpy()
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
        negative: Sequence[str | None],
        settings: SampleSettings,
        on_step: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Latents [B, C, length] of clips of one length."""
        backbone, window = self.backbone, self.preset.window
        windows = plan_windows(length, self.bridge.latent_rate, self.bridge.token_rate, window)
        heard = (
            list(seconds) if len(windows) == 1 else [window.seconds] * len(seconds)
        )  # what the DiT is told
        conditioning = backbone.conditioning(self._texts(prompts), heard)
        inputs = backbone.inputs(conditioning, self._against(negative, heard))
        guidance = Guidance(settings.cfg, settings.video_cfg)
        noise = clip_noise(seeds, backbone.model.io_channels, length).to(backbone.device)
        videos, fades = guidance.videos(video), cross_fades(windows)

        def velocity(x: Tensor, t: Tensor, **_: Any) -> Tensor:
            return guidance.velocity(backbone, x, t, inputs).to(x.dtype)

        def joined(x: Tensor, t: Tensor, **_: Any) -> Tensor:
            found = torch.zeros_like(x)
            for part, fade in zip(windows, fades, strict=True):
                here = slice(part.start, part.stop)
                with self._watching(
                    videos, part
                ):  # keys and values of all windows would grow with the length
                    found[..., here] += velocity(x[..., here], t) * fade.to(x.device)
            return found

        if len(windows) > 1:
            return sample_velocity_model(joined, noise, seeds, settings, on_step)
        with self._watching(videos, windows[0], sampling=True):
            return sample_velocity_model(velocity, noise, seeds, settings, on_step)

    def _against(
        self, negative: Sequence[str | None], seconds: Sequence[float]
    ) -> Conditioning | None:
        """Conditioning of negative prompts.

        Masked, which means zeros, for the clips that have none.
        """
        if not any(negative):
            return None
        given = torch.tensor([bool(prompt) for prompt in negative], device=self.backbone.device)
        found = self.backbone.conditioning(
            self._texts([prompt or "" for prompt in negative]), seconds
        )
        return {
            name: (tokens, mask.bool() & given[:, None]) for name, (tokens, mask) in found.items()
        }

    def _texts(self, prompts: Sequence[str]) -> list[Tensor]:
        """Text tokens of each prompt.

        Every distinct one is encoded once for as long as the model lives.
        """
        new = sorted(set(prompts) - self._encoded.keys())
        for start in range(0, len(new), TEXTS):
            some = new[start : start + TEXTS]
            self._encoded.update(zip(some, self.backbone.encode_text(some), strict=True))
        found = [self._encoded[prompt] for prompt in prompts]
        for prompt in list(self._encoded)[:-KEPT_TEXTS]:
            del self._encoded[prompt]
        return found

    def _watching(
        self, videos: Sequence[Tensor | None], window: Window, sampling: bool = False
    ) -> Any:
        """The bridge, attending to the part of each video that lies in a window."""
        cut = [None if v is None else v[window.first : window.last] for v in videos]
        tokens, frames, seen = self._pad_video(cut, window)
        return self.bridge.watching(
            tokens, window.length, frames=frames, seen=seen, offset=window.offset, sampling=sampling
        )

    def _pad_video(
        self, video: Sequence[Tensor | None], window: Window
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, J, P, V] zero-padded to the longest clip, frames [B] of each, and which clips have video [B]."""
        width = len(self.bridge.null)
        given = [v for v in video if v is not None]
        cells = given[0].shape[1] if given else 1
        default = window.last - window.first
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
