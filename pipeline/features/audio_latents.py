"""Audio latents: the posterior of the backbone's autoencoder for a clip's sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.presets.preset import Preset
from model.presets.settings import revision_in
from model.weights.files import weights_bytes
from pipeline.features.columns import clip_seconds, half_bytes, middle_times
from pipeline.media import read_audio
from pipeline.stages.reading import read_then_run
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import array_field, field

CHUNK = 16  # clips whose decoded sound is held at once


@dataclass(frozen=True)
class AudioLatentSettings:
    """The audio that the VAE gets."""

    sample_rate: int
    channels: int
    max_seconds: float


class BackboneStage(Stage):
    """A stage that runs a part of the frozen backbone."""

    scope = "kept"
    preset: Preset

    @property
    def model_revision(self) -> str:
        """Content hash of the backbone's weights, its text encoder included; and the precision."""
        from model.backbone import Backbone

        return revision_in(Backbone.revision(self.preset), self.precision)


class AudioLatents(BackboneStage):
    """Latents of the backbone's VAE: mean and standard deviation, so that training can sample."""

    name = "audio_latents"
    version = 1
    upstream = ("probe", "silence")
    batch_size = 512

    def __init__(self, preset: Preset) -> None:
        self.preset, self.precision = preset, preset.precision.latents
        self.settings = AudioLatentSettings(
            preset.sample_rate, preset.audio_channels, preset.max_seconds
        )
        shape = (preset.latent_channels, -1)
        mean = "[channels, latent frames] mean of the VAE's posterior"
        scale = "[channels, latent frames] its standard deviation"
        times = "[latent frames] middle of each, s after the first picture"
        self.schema = pa.schema(
            [
                array_field("latent_mean", "float16", shape, mean),
                array_field("latent_scale", "float16", shape, scale),
                array_field("latent_times", "float32", (-1,), times),
                field("n_latents", pa.int32(), "latent frames"),
                field("audio_seconds", pa.float32(), "seconds of audio that were encoded"),
            ]
        )

    @property
    def weights(self) -> int:
        """Those of the VAE."""
        return weights_bytes(self.preset.model("backbone"), "pretransform.")

    def setup(self) -> None:
        """Load the VAE, and no other part of the backbone."""
        from model.backbone import AudioCodec
        from model.weights.device import choose_device

        self._codec = AudioCodec.from_pretrained(self.preset, choose_device())

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """Latents of each clip."""
        return read_then_run(clips, self._reading, self._encode, CHUNK)

    def _encode(self, ready: Sequence[tuple[Clip, npt.NDArray[np.float32]]]) -> list[Passed]:
        import torch

        rows: list[Passed] = []
        for clip, audio in ready:
            sound = torch.from_numpy(np.atleast_2d(audio))
            mean, scale = (part[0] for part in self._codec.encode(sound[None]))
            columns = {
                "latent_mean": half_bytes(mean),
                "latent_scale": half_bytes(scale),
                "latent_times": middle_times(mean.shape[-1], self.preset.latent_rate),
                "n_latents": mean.shape[-1],
                "audio_seconds": clip_seconds(self.preset, clip),
            }
            rows.append(Passed(columns))
        return rows

    def _reading(self, clip: Clip) -> partial[npt.NDArray[np.float32]]:
        rate, layout = self.settings.sample_rate, "stereo"
        if self.settings.channels == 1:
            layout = "mono"
        seconds = clip_seconds(self.preset, clip)
        return partial(read_audio, Path(clip["path"]), rate, layout, seconds, exact=True)
