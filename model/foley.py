"""Foley Control: a frozen backbone with a trained bridge makes sound for video and a prompt."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.backbone import Backbone, Conditioning
from model.bridge import Bridge, VideoBatch
from model.bridge_file import read_bridge_facts
from model.low_memory import alone, quantise
from model.presets.preset import ModelError, Preset
from model.presets.settings import SampleSettings
from model.sampling.canvas import Canvas, SilentTail
from model.sampling.editing import free_of, hold
from model.sampling.guidance import Guidance
from model.sampling.request import SoundRequest
from model.sampling.samplers import Start, Velocity, clip_noise, sample_velocity_model
from model.sampling.windows import (
    Window,
    cross_fades,
    decode_in_pieces,
    encode_in_pieces,
    plan_stretches,
)
from model.types import Audio
from model.weights.files import BRIDGE_FILE
from model.weights.load import load_strict, read_weights

TEXTS = 16  # prompts encoded at once
CACHED_TEXTS = 256  # prompts whose tokens are cached: 0.4 MB each at full size


class _Video(NamedTuple):
    """Video tokens [J, P, V], and which frames are seen [J]."""

    tokens: Tensor
    seen: Tensor


def build_bridge(backbone: Backbone) -> Bridge:
    """An untrained bridge of the preset's size, not yet inserted."""
    preset, transformer = backbone.preset, backbone.dit.transformer
    rates = preset.latent_rate, preset.video.token_rate
    frame = preset.video.tokens_per_frame, preset.video.width
    return Bridge(transformer.dim, transformer.depth, frame, preset.bridge, rates)


class FoleyControl:
    """Backbone and bridge of a preset, ready to generate."""

    def __init__(self, backbone: Backbone, bridge: Bridge) -> None:
        self.backbone = backbone
        self.bridge = bridge.eval().requires_grad_(False)
        self.preset = backbone.preset
        self.low_memory = False
        self._encoded: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, preset: Preset, bridge: Path | None = None, device: str = "cpu"
    ) -> Self:
        """Load the preset's backbone and a bridge (None: the one beside the preset's weights).

        Raises WeightsError if a file is missing or does not fit, or if the bridge was trained on
        another backbone or encoder, or on other video tokens than the preset's.
        """
        path = bridge or preset.weights / BRIDGE_FILE
        weights = read_weights(path)
        facts = read_bridge_facts(path)
        facts.check_tokens(preset, path)
        backbone = Backbone.from_pretrained(facts.apply(preset, path))
        layers = build_bridge(backbone)
        load_strict(layers, {key: value.float() for key, value in weights.items()}, path)
        layers.insert(backbone.dit)
        if preset.sample.compile:
            backbone.compile_blocks()
        return cls(backbone.to(device), layers.to(device))

    def to(self, device: str, dtype: torch.dtype | None = None) -> Self:
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

    def lower_memory(self) -> None:
        """Sample in less memory from now on (model/low_memory.py); call it after :meth:`to`.

        Raises ModelError where torchao is not installed.
        """
        quantise(self.backbone.dit)
        self.low_memory = True

    def latent_frames(self, seconds: float) -> int:
        """Latent frames of so many seconds: sounds that have as many make one batch."""
        return Canvas.of(self.preset).latents(seconds)

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
        batches: dict[tuple[object, ...], list[int]] = {}  # the backbone knows no padding
        for i, request in enumerate(requests):
            key = (self.latent_frames(request.seconds), *request.plan())
            batches.setdefault(key, []).append(i)
        longest = round(self.preset.window.seconds * self.preset.latent_rate)
        sounds: dict[int, Audio] = {}
        for rows in sorted(batches.values(), key=lambda rows: requests[rows[0]].seconds):
            batch = [requests[i] for i in rows]
            length = self.latent_frames(batch[0].seconds)
            latents = self._sample(batch, length, settings or self.preset.sample, on_step)
            audio = torch.cat(list(decode_in_pieces(self.backbone, latents, longest)), dim=-1)
            for i, wave in zip(rows, audio.numpy(), strict=True):
                sounds[i] = wave[:, : round(requests[i].seconds * self.preset.sample_rate)]
        return [sounds[i] for i in range(len(requests))]

    @torch.no_grad()
    def encode(self, audio: Audio) -> Tensor:
        """Samples [channels, S] at the preset's rate -> latents [C, L] of a known sound."""
        size = round(self.preset.window.seconds * self.preset.latent_rate)
        return encode_in_pieces(self.backbone, torch.from_numpy(audio)[None], size)[0]

    def _sample(
        self,
        requests: Sequence[SoundRequest],
        length: int,
        settings: SampleSettings,
        on_step: Callable[[int, int], None] | None,
    ) -> Tensor:
        """Latents [B, C, length] of requests of one length and one plan."""
        backbone, bridge = self.backbone, self.bridge
        starts, strength = requests[0].plan()
        rates = bridge.latent_rate, bridge.token_rate
        windows = plan_stretches(length, rates, self.preset.window, starts)
        seeds = [r.seed for r in requests]
        noise = clip_noise(seeds, backbone.model.io_channels, length).to(backbone.device)
        guidance = Guidance(settings.cfg, settings.video_cfg)
        videos = guidance.videos([self._shown(request) for request in requests])
        retakes = [request.retake for request in requests]
        known = [r.reference.latents for r in requests if r.reference]
        start = Start(noise, seeds)
        if strength is not None:
            start = Start(noise, seeds, torch.stack(known).to(noise), strength)
        parts = self._parts(requests, windows, guidance)

        def sampled(velocity: Velocity) -> Tensor:
            held = hold(velocity, retakes, backbone.objective)
            with alone(backbone) if self.low_memory else nullcontext():
                return sample_velocity_model(held, start, settings, on_step)

        if len(windows) == 1:
            velocity, run = parts[0]
            with self._conditioned_on(videos, windows[0], run, cache=True):
                return sampled(velocity)
        fades = [fade.to(noise.device) for fade in cross_fades(windows)]

        def joined(x: Tensor, t: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for window, fade, (velocity, run) in zip(windows, fades, parts, strict=True):
                here = slice(window.start, window.stop)
                if all(r and not free_of(r, length)[here].any() for r in retakes):
                    continue  # nothing in it is made anew
                # No cache: keys and values of all windows would grow with the length.
                with self._conditioned_on(videos, window, run):
                    total[..., here] += velocity(x[..., here], t) * fade
            return total

        return sampled(joined)

    def _parts(
        self, requests: Sequence[SoundRequest], windows: Sequence[Window], guidance: Guidance
    ) -> list[tuple[Velocity, int]]:
        """The guided velocity in each window, and how many latent frames the DiT runs for it."""
        made: dict[tuple[int, int], tuple[Velocity, int]] = {}  # windows of a length share theirs
        for window in windows:
            if (window.stretch, window.length) not in made:
                found = self._part(requests, window, guidance, len(windows) == 1)
                made[window.stretch, window.length] = found
        return [made[window.stretch, window.length] for window in windows]

    def _part(
        self, requests: Sequence[SoundRequest], window: Window, guidance: Guidance, whole: bool
    ) -> tuple[Velocity, int]:
        backbone, size, longest = self.backbone, window.length, self.preset.window.seconds
        full = size == round(longest * self.bridge.latent_rate)
        # The DiT is told the length of what it makes at once.
        own = longest if full else size / self.bridge.latent_rate
        seconds = [request.seconds if whole else own for request in requests]
        texts = self._texts([request.prompts()[window.stretch] for request in requests])
        negative = self._negative([request.negative_prompt for request in requests], seconds)
        inputs = backbone.inputs(backbone.conditioning(texts, seconds), negative)
        run = Canvas.of(self.preset).length(size)
        silence = SilentTail(backbone, [request.seed for request in requests], run - size)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            shown = silence.behind(x, t)
            return guidance.velocity(backbone, shown, t, inputs)[..., :size].to(x.dtype)

        return velocity, run

    def _shown(self, request: SoundRequest) -> _Video | None:
        """The video of a request, and in which of its frames it is seen."""
        if request.video is None:
            return None
        times = (torch.arange(len(request.video)) + 0.5) / self.bridge.token_rate
        seen = torch.ones(len(times), dtype=torch.bool)
        for start, stop in request.hidden:
            seen &= (times < start) | (times >= stop)
        return _Video(request.video, seen)

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
        self, videos: Sequence[_Video | None], window: Window, run: int, cache: bool = False
    ) -> AbstractContextManager[None]:
        """The bridge on the part of each video in a window; the DiT runs `run` latents for it."""
        device, count = self.backbone.device, window.last - window.first
        cells = next((video.tokens.shape[1] for video in videos if video is not None), 1)
        nothing = torch.zeros(count, cells, len(self.bridge.null))
        here = slice(window.first, window.last)
        rows = [nothing if video is None else video.tokens[here].float() for video in videos]
        seen = [
            torch.zeros(count).bool() if video is None else video.seen[here] for video in videos
        ]
        batch = VideoBatch(
            tokens=pad_sequence(rows, batch_first=True).to(device),
            frames=torch.tensor([len(row) for row in rows], device=device),
            seen=pad_sequence(seen, batch_first=True).to(device),
            offset=window.offset,
        )
        return self.bridge.conditioned_on(batch, run, cache)
