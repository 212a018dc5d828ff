"""The models that make sound for videos: from a file and a prompt to sound with its provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.foley import FoleyControl, SoundRequest, read_bridge_facts
from model.presets.preset import ModelError, Preset
from model.presets.settings import SampleSettings
from model.types import Audio
from model.video_encoder import VideoEncoder, frame_times
from pipeline.generation.provenance import bridge_facts, code_version, keep_provenance
from pipeline.generation.requests import MAX_SEED, check_out, sample_settings, video_seconds
from pipeline.media import Framing, mux, read_segments, write_flac, write_wav
from warehouse.errors import FoleyError
from warehouse.files import file_sha256
from warehouse.store import Warehouse

_WRITERS = {".wav": write_wav, ".flac": write_flac}


@dataclass(frozen=True)
class GeneratedSound:
    """Sound for a video.

    Attributes:
        audio: samples [channels, S] in -1..1.
        sample_rate: samples a second.
        video: the file whose picture it was made for.
        provenance: the video and its hash, prompt, seed, preset, models, settings and device.

    """

    audio: Audio
    sample_rate: int
    video: Path
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Length of the sound: that of the video."""
        return self.audio.shape[1] / self.sample_rate

    def save(self, out: str | Path, home: Warehouse | None = None) -> Path:
        """Write the video with this sound in place of its own; .wav and .flac are the sound alone.

        The picture is copied bit for bit. `OUT.json` beside it holds the provenance with the hash
        of the file, and so does a record of `home`.

        Raises:
            FoleyError: `out` cannot be written, is the video itself, or has another extension
                than .mp4, .m4v, .mov, .mkv, .webm, .wav or .flac.

        """
        out = Path(out)
        check_out(out, {self.video.resolve()})
        out.parent.mkdir(parents=True, exist_ok=True)
        if writer := _WRITERS.get(out.suffix.lower()):
            writer(out, self.audio, self.sample_rate)
        else:
            mux(self.video, self.audio, self.sample_rate, out)
        keep_provenance(out, self.provenance, home)
        return out


class SoundGenerator:
    """A preset's encoder, backbone and bridge on a device, ready to make sound for files.

    Args:
        preset: which models, and how they sample.
        bridge: a bridge.safetensors; None for the one beside the preset's weights.
        device: cpu, cuda, cuda:N, or auto: cuda where there is one.

    Raises:
        ModelError: there is no such device.
        WeightsError: weights are missing or do not fit.

    """

    def __init__(self, preset: Preset, bridge: Path | None = None, device: str = "auto") -> None:
        self.preset = preset
        self.device = choose_device(device)
        on_gpu = self.device.startswith("cuda")
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self.encoder = VideoEncoder.from_pretrained(preset, self.device)
        self.encoder.model.to(dtype)
        self.foley = FoleyControl.from_pretrained(preset, bridge).to(self.device, dtype)
        path = bridge or preset.weights / "bridge.safetensors"
        trained_on = read_bridge_facts(path)  # these very models, or it would not have loaded
        self._models = {
            "preset": preset.name,
            "backbone": trained_on["backbone"],
            "encoder": trained_on["encoder"],
            **bridge_facts(path),
        }
        self._machine = {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "precision": str(dtype).removeprefix("torch."),
            "code": code_version(),
        }

    def generate(
        self,
        video: str | Path,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        seed: int = 0,
        cfg: float | None = None,
        video_cfg: float | None = None,
        steps: int | None = None,
    ) -> GeneratedSound:
        """Make sound for one video, as long as its picture.

        Args:
            video: a file with a picture of at most an hour, at any frame rate.
            prompt: what is to be heard.
            negative_prompt: what is not to be heard.
            seed: 0 to 2**31 - 1; the same seed gives the same sound.
            cfg: guidance by text and video; None for the preset's, as for the next two.
            video_cfg: guidance by video, where it is not to be the same.
            steps: sampling steps.

        Raises:
            FoleyError: the video is missing, damaged or too long.

        Example:
            >>> sound = foley.load("toy").generate("clip.mp4", "a ball bounces on wood", steps=20)
            >>> sound.audio.shape, sound.sample_rate
            ((1, 64000), 16000)

        """
        if not 0 <= seed <= MAX_SEED:
            raise FoleyError(f"the seed must be 0 to {MAX_SEED}, not {seed}")
        path = Path(video)
        seconds = video_seconds(path)
        tokens = self.tokens(path, seconds)
        request = SoundRequest(prompt, seconds, seed, tokens, negative_prompt)
        settings = sample_settings(self.preset, cfg=cfg, video_cfg=video_cfg, steps=steps)
        return self.sounds([path], [request], settings)[0]

    def tokens(self, video: Path, seconds: float) -> Tensor:
        """Video tokens [J, P, V] of a whole file, read and encoded segment by segment."""
        settings = self.preset.video
        times = frame_times(seconds, settings.fps)
        framing = Framing(settings.short_side, settings.crop)
        segments = read_segments(video, times, framing, settings.segment_frames)
        return torch.cat([self.encoder.encode(segment).cpu() for segment in segments])

    def sounds(
        self,
        videos: Sequence[Path],
        requests: Sequence[SoundRequest],
        settings: SampleSettings | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[GeneratedSound]:
        """The sound of each request, and that it is for the video of the same place in `videos`."""
        settings = settings or self.preset.sample
        rate = self.preset.sample_rate
        return [
            GeneratedSound(audio, rate, video, self._provenance(video, request, audio, settings))
            for video, request, audio in zip(
                videos, requests, self.foley.generate(requests, settings, on_step), strict=True
            )
        ]

    def _provenance(
        self, video: Path, request: SoundRequest, audio: Audio, settings: SampleSettings
    ) -> dict[str, Any]:
        rate, window = self.preset.sample_rate, self.preset.window.model_dump()
        return {
            "seconds": audio.shape[1] / rate,
            "sample_rate": rate,
            "channels": len(audio),
            "video": {"path": str(video.absolute()), "sha256": file_sha256(video)},
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            **self._models,
            "settings": settings.model_dump(exclude={"fast_steps"}) | {"window": window},
            **self._machine,
        }


def choose_device(name: str) -> str:
    """The device of that name; `auto` is cuda where there is one, else cpu.

    Raises ModelError for cuda where there is none.
    """
    available = torch.cuda.is_available()
    if name.startswith("cuda") and not available:
        raise ModelError(
            f"device {name!r} was asked for, but torch finds no CUDA device here: use --device cpu"
        )
    if name == "auto":
        return "cuda" if available else "cpu"
    return name
