"""ImageBind as evaluation uses it.

The pictures of the benchmark, sound and picture embedded apart.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from model.device import default_device
from model.networks.base import SCORER_RATE, Embedded, Frames, Samples, to_numpy
from model.presets.preset import Preset
from model.weights.load import files_revision, load_strict, read_weights

MIN_SAMPLES = 640  # less than two frames of its spectrogram


class ImageBind:
    """The network of IB: the cosine of its embeddings of a picture and of a sound."""

    stem: ClassVar[str] = "imagebind"
    sample_rate: ClassVar[int] = 16000
    crop: ClassVar[bool] = False  # it crops for itself

    def __init__(self, scorer: ImageBindScorer) -> None:
        self.scorer = scorer
        self.size = scorer.views.size

    @staticmethod
    def views(preset: Preset) -> ImageBindViews:
        """The preset's windows, with what its evaluation changes."""
        return ImageBindViews(**(preset.imagebind_views | preset.evaluation.get("imagebind", {})))

    @classmethod
    def settings(cls, preset: Preset) -> dict[str, Any]:
        """When and how it looks and listens."""
        return asdict(cls.views(preset))

    @classmethod
    def from_pretrained(cls, preset: Preset) -> ImageBind:
        """Load the published weights strictly."""
        return cls(ImageBindScorer.from_pretrained(preset, cls.views(preset)))

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the weights."""
        return ImageBindScorer.revision(preset)

    def times(self, seconds: float) -> npt.NDArray[np.float64]:
        """Times (s) of the pictures to look at."""
        return self.scorer.views.frame_times(seconds)

    def hear(self, sounds: Sequence[Samples]) -> list[Embedded]:
        """Mono sounds at 16 kHz -> one embedding each [1, D]."""
        long_enough = [np.pad(sound, (0, max(0, MIN_SAMPLES - len(sound)))) for sound in sounds]
        return [Embedded(row[None]) for row in to_numpy(self.scorer.hear(long_enough))]

    def watch(self, clips: Sequence[Frames]) -> list[Embedded]:
        """Pictures of clips at `times` -> one embedding each [1, D]."""
        return [Embedded(to_numpy(self.scorer.watch([frames]))) for frames in clips]


def import_imagebind() -> Any:
    """ImageBind's model module.

    `import imagebind` itself needs packages that no longer exist, so it is skipped.
    """
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


@dataclass(frozen=True)
class ImageBindViews:
    """When and how ImageBind looks at a clip.

    Upstream: 5 windows of 2 s with 2 frames each, 3 crops; 3 sounds of 2 s, 204 mel frames each.
    With `pair_fps` the pictures are those of the benchmark instead: so many a second, each with the
    next (0.5 in av-benchmark).
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
        """Start times (s) of `clips` windows spread evenly over the clip.

        Exact, as they are cut to whole samples.
        """
        last = max(Fraction(duration) - Fraction(self.clip_seconds), Fraction(0))
        return [last * i / max(clips - 1, 1) for i in range(clips)]

    def frame_times(self, duration: float, fps: float = 0.0) -> npt.NDArray[np.float64]:
        """Times (s) of the frames to decode: `frames` of every window, from its first to its last, [clips * frames].

        With `fps`, that of the picture, a window holds the frames that begin in it, as upstream's
        does; without, the one that is on screen when it begins comes first.
        """
        if self.pair_fps:
            times = (
                np.arange(max(2, int(duration * self.pair_fps)), dtype=np.float64) + 0.5
            ) / self.pair_fps
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
    def from_pretrained(
        cls, preset: Preset, views: ImageBindViews | None = None
    ) -> ImageBindScorer:
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
        """Where the model is.

        Its inputs are prepared there too, so that an accelerator does not wait for it.
        """
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
            y, x = (
                (offset, -(-(width - size) // 2))
                if height > width
                else (-(-(height - size) // 2), offset)
            )
            crops.append(pixels[:, :, y : y + size, x : x + size])
        stacked = torch.stack(crops)  # [crops, N, 3, size, size]
        return (
            stacked.unflatten(1, (-1, self.views.frames))
            .transpose(0, 1)
            .flatten(0, 1)
            .transpose(1, 2)
        )

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
        return self.model({"vision": torch.stack([self.prepare_frames(f) for f in clips])})[
            "vision"
        ].cpu()

    @torch.inference_mode()
    def hear(self, sounds: Sequence[npt.NDArray[np.float32]]) -> Tensor:
        """Mono audio of B clips at 16 kHz -> embeddings [B, D], mean of the normalised ones of all views."""
        return self.model({"audio": torch.stack([self.prepare_audio(a) for a in sounds])})[
            "audio"
        ].cpu()

    def prepare(self, frames: Frames, audio: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """What the model takes of a clip.

        Of frames (at `views.frame_times`), and of mono audio at 16 kHz.
        """
        return self.prepare_frames(frames), self.prepare_audio(audio)

    @torch.inference_mode()
    def compare(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """B prepared clips -> B cosines in -1..1."""
        pixels, mels = (torch.stack([clip[i] for clip in prepared]) for i in (0, 1))
        found = self.model({"vision": pixels, "audio": mels})
        return [
            float(v) for v in F.cosine_similarity(found["vision"], found["audio"], dim=-1).cpu()
        ]

    def score(
        self, frames: Sequence[Frames], audio: Sequence[npt.NDArray[np.float32]]
    ) -> list[float]:
        """Frames (at `views.frame_times`) and audio of B clips -> B cosines in -1..1."""
        return self.compare([self.prepare(f, a) for f, a in zip(frames, audio, strict=True)])
