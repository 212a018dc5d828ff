"""ImageBind (Girdhar et al., arXiv 2305.05665): do sound and picture belong together?

The model is upstream's own; media are prepared as in its `imagebind/data.py`.
Curation looks at upstream's windows of a clip, evaluation at the benchmark's pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from model.networks.base import Embedded, EvaluationNetwork, padded, to_numpy
from model.presets.preset import Preset
from model.presets.settings import ImageBindViews
from model.types import Audio, Times
from model.weights.lean_imports import bare_package

LEAST = 640  # samples: a shorter sound has no frame of the spectrogram
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]  # [T, H, W, 3], 0..255


def import_imagebind() -> Any:
    """ImageBind's model module, without its package's `__init__`, whose imports no longer exist."""
    bare_package("imagebind")
    from imagebind.models import imagebind_model

    return imagebind_model


class ImageBind(EvaluationNetwork):
    """Embeddings of sounds and of pictures, whose cosine says how well they fit."""

    name = "imagebind"
    sample_rate = 16000
    size: ClassVar[int] = 224  # of the pictures' short side
    crop: ClassVar[bool] = False  # it crops for itself

    def __init__(
        self,
        sizes: Mapping[str, object],
        views: ImageBindViews | None = None,
        pair_fps: float = 0.0,
    ) -> None:
        """An untrained network.

        Args:
            sizes: Arguments of upstream's ImageBindModel.
            views: When and how it looks at a clip; upstream's own by default.
            pair_fps: `times` are so many pictures a second, each with the next (0.5 in
                av-benchmark), in place of the windows of `views`.
        """
        super().__init__()
        self.model = import_imagebind().ImageBindModel(**sizes)
        self.views = views or ImageBindViews()
        self.pair_fps = pair_fps

    @classmethod
    def arguments(cls, preset: Preset) -> dict[str, object]:
        """See FrozenNetwork."""
        shape = {"sizes": preset.imagebind, "views": preset.imagebind_views}
        return shape | super().arguments(preset)

    @classmethod
    def settings(cls, preset: Preset) -> dict[str, object]:
        """See FrozenNetwork."""
        views = asdict(preset.imagebind_views) | {"pair_fps": 0.0, "size": cls.size}
        return views | super().arguments(preset)

    @property
    def body(self) -> nn.Module:
        """See FrozenNetwork."""
        return self.model

    def times(self, seconds: float) -> Times:
        """Times (s) of the pictures that evaluation shows it of a clip, [clips * frames]."""
        if not self.pair_fps:
            return self.window_times(seconds)
        count = max(2, int(seconds * self.pair_fps))
        times = (np.arange(count, dtype=np.float64) + 0.5) / self.pair_fps
        return np.stack([times[:-1], times[1:]], axis=1).reshape(-1)

    def window_times(self, seconds: float, fps: float = 0.0) -> Times:
        """Times (s) of `frames` pictures of each window, from its first to its last.

        Args:
            seconds: Length of the clip.
            fps: Frames a second of the clip: a window then holds the frames that begin in it, as
                upstream's does. Without, the one that is on screen when it begins comes first.

        Returns:
            Times [clips * frames].
        """
        starts = np.array(self._starts(seconds, self.views.video_clips), np.float64)
        ends = np.minimum(starts + self.views.clip_seconds, seconds)
        if fps:
            starts, ends = (np.ceil(times * fps - 1e-6) / fps for times in (starts, ends))
        last = np.maximum(ends - 1e-3, starts)
        times = np.linspace(starts, last, self.views.frames, axis=1)
        return np.asarray(times, np.float64).reshape(-1)

    def _starts(self, seconds: float, clips: int) -> list[Fraction]:
        """Starts (s) of windows spread evenly over a clip; exact, as they are cut to samples."""
        last = max(Fraction(seconds) - Fraction(self.views.clip_seconds), Fraction(0))
        return [last * i / max(clips - 1, 1) for i in range(clips)]

    def prepare_frames(self, frames: Pixels) -> Tensor:
        """Pictures as the model takes them; on its device, so that it does not wait for them.

        Args:
            frames: RGB [clips * frames, H, W, 3], 0..255, whose short side is `size`.

        Returns:
            Crops at the start, the centre and the end [clips * crops, 3, frames, size, size].
        """
        mean, std = (torch.tensor(values, device=self.device) for values in (MEAN, STD))
        values = torch.from_numpy(frames).to(self.device).float()
        pixels = (values * (1 / (255 * std))).sub_(mean / std).permute(0, 3, 1, 2)  # [N, 3, H, W]
        height, width = pixels.shape[-2:]
        size, slack = self.size, max(height, width) - self.size
        centre = -(-slack // 2)
        crops: list[Tensor] = []
        for offset in (0, centre, slack) if self.views.crops == 3 else (centre,):
            y, x = (offset, 0) if height > width else (0, offset)
            crops.append(pixels[:, :, y : y + size, x : x + size])
        pairs = torch.stack(crops).unflatten(1, (-1, self.views.frames))
        return pairs.transpose(0, 1).flatten(0, 1).transpose(1, 2)

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] at 16 kHz -> log mels [audio_clips, 1, 128, mel_frames], normalised."""
        views, rate = self.views, self.sample_rate
        # padded copies it, and the copy is changed below
        sound = padded(audio, LEAST)[None].to(self.device)
        windows: list[Tensor] = []
        for start in self._starts(sound.shape[1] / rate, views.audio_clips):
            first = int(start * rate)
            wave = sound[:, first : first + int(views.clip_seconds * rate)]
            wave -= wave.mean()  # in place, as upstream: what two windows share loses both means
            mel = torchaudio.compliance.kaldi.fbank(
                wave, htk_compat=True, sample_frequency=rate, use_energy=False, num_mel_bins=128,
                window_type="hanning", dither=0.0, frame_length=25, frame_shift=10,
            ).T  # fmt: skip  # [128, frames]
            mel = F.pad(mel, (0, max(0, views.mel_frames - mel.shape[1])))
            windows.append(mel[None, :, : views.mel_frames])
        return (torch.stack(windows) + 4.268) / 9.138

    def forward(self, prepared: Tensor) -> tuple[Tensor, None]:
        """Mels of B sounds -> embeddings [B, 1, D], means of the normalised ones of all windows."""
        return self.model({"audio": prepared})["audio"][:, None], None

    @torch.inference_mode()
    def watch(self, clips: Sequence[Pixels]) -> list[Embedded]:
        """Pictures of clips at `times` -> one embedding each [1, D]."""
        prepared = (torch.stack([self.prepare_frames(frames)]) for frames in clips)
        return [Embedded(to_numpy(self.model({"vision": views})["vision"])) for views in prepared]

    @torch.inference_mode()
    def compare(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """Prepared pictures and sound of B clips -> B cosines in -1..1."""
        pixels, mels = (torch.stack([clip[i] for clip in prepared]) for i in (0, 1))
        embedded = self.model({"vision": pixels, "audio": mels})
        seen, heard = embedded["vision"].float(), embedded["audio"].float()
        return F.cosine_similarity(seen, heard, dim=-1).cpu().tolist()
