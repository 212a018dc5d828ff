"""Audio latents: the posterior of the backbone's autoencoder for a clip's sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.presets.preset import Preset
from pipeline.features.video_tokens import CHUNK, _half, _times, clip_seconds
from pipeline.media import read_audio
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field


@dataclass(frozen=True)
class AudioLatentSettings:
    """The audio that the VAE gets."""

    sample_rate: int
    channels: int
    max_seconds: float


class _BackboneStage(Stage):
    """A stage that runs a part of the frozen backbone."""

    preset: Preset

    @property
    def model_revision(self) -> str:
        """Content hash of the backbone's weights, its text encoder included."""
        from model.backbone import Backbone

        return Backbone.revision(self.preset)

    def setup(self) -> None:
        """Load the backbone."""
        from model.backbone import Backbone
        from model.device import default_device

        self._backbone: Any = Backbone.from_pretrained(self.preset).to(default_device())


class AudioLatents(_BackboneStage):
    """Latents of the backbone's VAE: mean and standard deviation, so that training can sample."""

    name = "audio_latents"
    version = 1
    upstream = ("probe", "silence")
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.settings = AudioLatentSettings(
            preset.sample_rate, preset.audio_channels, preset.max_seconds
        )
        shape = (preset.latent_channels, -1)
        self.schema = pa.schema(
            [
                array_field(
                    "latent_mean",
                    "float16",
                    shape,
                    "[channels, latent frames] mean of the VAE's posterior",
                ),
                array_field(
                    "latent_scale",
                    "float16",
                    shape,
                    "[channels, latent frames] its standard deviation",
                ),
                array_field(
                    "latent_times",
                    "float32",
                    (-1,),
                    "[latent frames] middle of each, s after the first picture",
                ),
                field("n_latents", pa.int32(), "latent frames"),
                field("audio_seconds", pa.float32(), "seconds of audio that were encoded"),
            ]
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Latents of each clip."""
        import torch

        def run(ready: Sequence[tuple[Clip, npt.NDArray[np.float32]]]) -> list[Passed]:
            rows: list[Passed] = []
            for clip, audio in ready:
                sound = torch.from_numpy(np.atleast_2d(audio))
                mean, scale = (part[0] for part in self._backbone.encode_audio(sound[None]))
                columns = {"latent_mean": _half(mean), "latent_scale": _half(scale)}
                columns |= {"latent_times": _times(mean.shape[-1], self.preset.latent_rate)}
                columns |= {
                    "n_latents": mean.shape[-1],
                    "audio_seconds": clip_seconds(self.preset, clip),
                }
                rows.append(Passed(columns))
            return rows

        return read_then_run(clips, self._reading, run, CHUNK)

    def _reading(self, clip: Clip) -> partial[npt.NDArray[np.float32]]:
        layout = "mono" if self.settings.channels == 1 else "stereo"
        seconds = clip_seconds(self.preset, clip)
        return partial(
            read_audio, Path(clip["path"]), self.settings.sample_rate, layout, seconds, exact=True
        )
