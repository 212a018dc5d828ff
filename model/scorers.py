"""Curation scorers: ImageBind audio-video cosine and Audiobox Aesthetics, as upstream's own model classes.

Input preparation follows upstream (imagebind/data.py, audiobox_aesthetics/infer.py); reading files is left out, since
this project decodes media itself.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from model.backbone import default_device
from model.presets import Preset
from model.weights import WeightsError, files_revision, load_strict, read_weights

AXES = ("CE", "CU", "PC", "PQ")
SCORER_RATE = 16000  # Hz, of both models' audio
Frames = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def import_imagebind() -> Any:
    """ImageBind's model module. `import imagebind` itself needs packages that no longer exist, so it is skipped."""
    if "imagebind" not in sys.modules:
        spec = find_spec("imagebind")
        assert spec is not None
        package = types.ModuleType("imagebind")
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["imagebind"] = package
    from imagebind.models import imagebind_model

    return imagebind_model


def build_imagebind(preset: Preset) -> Any:
    """An untrained ImageBindModel of the preset's size."""
    return import_imagebind().ImageBindModel(**preset.imagebind).eval().requires_grad_(False)


def build_audiobox(preset: Preset) -> Any:
    """An untrained AesMultiOutput; upstream fixes its WavLM's size in a module constant, so that is varied."""
    from audiobox_aesthetics.model import aes

    config = aes.WavLMConfig(vars(aes.DEFAULT_AUDIO_CFG) | preset.audiobox)
    layers = int(config.encoder_layers) + 1
    target = {axis: {"mean": 5.0, "std": 1.0} for axis in AXES}
    with patch.object(aes, "DEFAULT_AUDIO_CFG", config):
        return aes.AesMultiOutput(nth_layer=layers, target_transform=target).eval().requires_grad_(False)


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
        return {axis: {"mean": float(found[axis]["mean"]), "std": float(found[axis]["std"])} for axis in AXES}
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            f"no target_transform (mean and std of {', '.join(AXES)}) in {config}: it is published beside the weights"
        ) from None


@dataclass(frozen=True)
class ImageBindViews:
    """When and how ImageBind looks at a clip.

    Upstream: 5 windows of 2 s with 2 frames each, 3 crops; 3 sounds of 2 s, 204 mel frames each. With `pair_fps` the
    pictures are those of the benchmark instead: so many a second, each with the next (0.5 in av-benchmark).
    """

    video_clips: int = 5
    audio_clips: int = 3
    clip_seconds: float = 2.0
    frames: int = 2
    crops: int = 3
    mel_frames: int = 204
    pair_fps: float = 0.0
    size: int = 224

    def starts(self, duration: float, clips: int) -> list[Fraction]:
        """Start times (s) of `clips` windows spread evenly over the clip; exact, as they are cut to whole samples."""
        last = max(Fraction(duration) - Fraction(self.clip_seconds), Fraction(0))
        return [last * i / max(clips - 1, 1) for i in range(clips)]

    def frame_times(self, duration: float, fps: float = 0.0) -> npt.NDArray[np.float64]:
        """Times (s) of the frames to decode: `frames` of every window, from its first to its last, [clips * frames].

        With `fps`, that of the picture, a window holds the frames that begin in it, as upstream's does; without, the
        one that is on screen when it begins comes first.
        """
        if self.pair_fps:
            times = (np.arange(max(2, int(duration * self.pair_fps)), dtype=np.float64) + 0.5) / self.pair_fps
            return np.stack([times[:-1], times[1:]], axis=1).reshape(-1)
        starts = np.array(self.starts(duration, self.video_clips), np.float64)
        ends = np.minimum(starts + self.clip_seconds, duration)
        if fps:
            starts, ends = (np.ceil(times * fps - 1e-6) / fps for times in (starts, ends))
        last = np.maximum(ends - 1e-3, starts)
        return np.asarray(np.linspace(starts, last, self.frames, axis=1), np.float64).reshape(-1)


class ImageBindScorer:
    """Cosine of ImageBind's audio and video embeddings."""

    sample_rate = SCORER_RATE

    def __init__(self, model: Any, views: ImageBindViews | None = None) -> None:
        self.model = model
        self.views = views or ImageBindViews()

    @classmethod
    def from_pretrained(cls, preset: Preset, views: ImageBindViews | None = None) -> ImageBindScorer:
        """Load the weights (published key layout) strictly."""
        path = preset.model("imagebind")
        model = build_imagebind(preset)
        load_strict(model, read_weights(path), path)
        return cls(model.to(default_device()), views)

    @staticmethod
    def revision(preset: Preset) -> str:
        """Content hash of the weights."""
        return files_revision([preset.model("imagebind")])

    @property
    def device(self) -> torch.device:
        """Where the model is: its inputs are prepared there too, so that an accelerator does not wait for it."""
        return torch.device("cpu") if self.model is None else next(self.model.parameters()).device

    def prepare_frames(self, frames: Frames) -> Tensor:
        """RGB frames [clips * frames, H, W, 3], 0..255, short side `size` -> [clips * crops, 3, frames, size, size]."""
        mean = torch.tensor((0.48145466, 0.4578275, 0.40821073), device=self.device)
        std = torch.tensor((0.26862954, 0.26130258, 0.27577711), device=self.device)
        values = torch.from_numpy(frames).to(self.device).float()
        pixels = (values * (1 / (255 * std))).sub_(mean / std).permute(0, 3, 1, 2)  # [N, 3, H, W]
        height, width = pixels.shape[-2:]
        size, slack = self.views.size, max(height, width) - self.views.size
        crops: list[Tensor] = []
        for offset in (0, -(-slack // 2), slack) if self.views.crops == 3 else (-(-slack // 2),):
            y, x = (offset, -(-(width - size) // 2)) if height > width else (-(-(height - size) // 2), offset)
            crops.append(pixels[:, :, y : y + size, x : x + size])
        stacked = torch.stack(crops)  # [crops, N, 3, size, size]
        return stacked.unflatten(1, (-1, self.views.frames)).transpose(0, 1).flatten(0, 1).transpose(1, 2)

    def prepare_audio(self, audio: npt.NDArray[np.float32]) -> Tensor:
        """Mono audio [S] at 16 kHz -> [audio_clips, 1, 128 mels, mel_frames], normalised as upstream does."""
        windows: list[Tensor] = []
        length, frames = int(self.views.clip_seconds * SCORER_RATE), self.views.mel_frames
        # upstream hears the left of two channels; here comes their mean
        sound = torch.from_numpy(audio[None].copy()).to(self.device)
        for start in self.views.starts(len(audio) / SCORER_RATE, self.views.audio_clips):
            first = int(start * SCORER_RATE)
            wave = sound[:, first : first + length]
            wave -= wave.mean()  # in place, as upstream: what two windows share loses both means
            mel = torchaudio.compliance.kaldi.fbank(
                wave, htk_compat=True, sample_frequency=SCORER_RATE, use_energy=False,
                window_type="hanning", num_mel_bins=128, dither=0.0, frame_length=25, frame_shift=10,
            ).T  # fmt: skip  # [128, frames]
            windows.append(F.pad(mel, (0, max(0, frames - mel.shape[1])))[None, :, :frames])
        return (torch.stack(windows) + 4.268) / 9.138

    @torch.inference_mode()
    def watch(self, clips: Sequence[Frames]) -> Tensor:
        """Frames of B clips at `views.frame_times` -> embeddings [B, D], mean of the normalised ones of all views."""
        return self.model({"vision": torch.stack([self.prepare_frames(f) for f in clips])})["vision"].cpu()

    @torch.inference_mode()
    def hear(self, sounds: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Mono audio of B clips at 16 kHz -> embeddings [B, D], mean of the normalised ones of all views."""
        return self.model({"audio": torch.stack([self.prepare_audio(a) for a in sounds])})["audio"].cpu()

    def prepare(self, frames: Frames, audio: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """What the model takes of a clip: of frames (at `views.frame_times`), and of mono audio at 16 kHz."""
        return self.prepare_frames(frames), self.prepare_audio(audio)

    @torch.inference_mode()
    def compare(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """B prepared clips -> B cosines in -1..1."""
        pixels, mels = (torch.stack([clip[i] for clip in prepared]) for i in (0, 1))
        found = self.model({"vision": pixels, "audio": mels})
        return [float(v) for v in F.cosine_similarity(found["vision"], found["audio"], dim=-1).cpu()]

    def score(self, frames: Sequence[Frames], audio: Sequence[npt.NDArray[np.float32]]) -> list[float]:
        """Frames (at `views.frame_times`) and audio of B clips -> B cosines in -1..1."""
        return self.compare([self.prepare(f, a) for f, a in zip(frames, audio, strict=True)])


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
        return files_revision([preset.model("audiobox"), _audiobox_config(preset.model("audiobox"))])

    @torch.inference_mode()
    def score(self, audio: Sequence[npt.NDArray[np.float32]]) -> list[dict[str, float]]:
        """Mono audio [S] at 16 kHz of B clips -> CE, CU, PC, PQ of each, about 1..10; longer clips by 10 s windows."""
        from audiobox_aesthetics.infer import make_inference_batch

        waves, masks, weights, owners = make_inference_batch([torch.from_numpy(a)[None] for a in audio])
        device = next(self.model.parameters()).device
        batch = {"wav": torch.stack(waves).to(device), "mask": torch.stack(masks).to(device)}
        predicted = cast("dict[str, Tensor]", {axis: found.cpu() for axis, found in self.model(batch).items()})
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
