"""PaSST (Koutini et al., arXiv 2110.05069) as in its authors' package hear21passt."""

from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Self

import numpy as np
from torch import Tensor

from model.networks.base import EvaluationNetwork, padded
from model.types import Audio

HOP = 320  # samples


def build_spectrogram() -> Any:
    """The log mel spectrogram of `hear21passt.base.get_basic_model`, without its augmentations."""
    from hear21passt.models.preprocess import AugmentMelSTFT

    with redirect_stdout(StringIO()):
        return AugmentMelSTFT(
            n_mels=128, sr=32000, win_length=800, hopsize=HOP, n_fft=1024, fmin=0.0, fmax=None,
            freqm=48, timem=192, fmin_aug_range=10, fmax_aug_range=2000,
        ).eval()  # fmt: skip


class Passt(EvaluationNetwork):
    """Tags of AudioSet and an embedding of width 768: KL-PaSST and FD-PaSST."""

    name = "passt"
    sample_rate = 32000

    def __init__(
        self, seconds: float = 10.0, frames: int = 998, classes: int = 527, **sizes: object
    ) -> None:
        """`seconds` are heard of a clip, padded with silence; `sizes` are hear21passt's PaSST's."""
        super().__init__()
        from hear21passt.models import passt

        passt.first_RUN = False  # or it prints every shape of its first batch
        self.samples = round(seconds * self.sample_rate)
        build: Any = passt.PaSST  # untyped
        self.net = build(
            img_size=(128, frames), stride=(10, 10), num_classes=classes, distilled=True,
            embed_layer=passt.PatchEmbed, **sizes,
        )  # fmt: skip
        self.mel = build_spectrogram()

    def train(self, mode: bool = True) -> Self:
        """Training of the network; the spectrogram stays as evaluation has it."""
        super().train(mode)
        self.mel.eval()
        return self

    @classmethod
    def published(cls, weights: Any) -> dict[str, Tensor]:
        """The published file holds the bare network."""
        return {
            key if key.startswith("net.") else f"net.{key}": value for key, value in weights.items()
        }

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] -> [samples], cut or padded with silence."""
        return padded(np.asarray(audio[: self.samples]), self.samples)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio [B, S] -> [B, 128, T], (log mel power + 4.5) / 5."""
        return self.mel(audio)

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [B, samples] -> embedding [B, 1, 768], logits [B, 527]."""
        logits, features = self.net(self.spectrogram(prepared)[:, None])
        return features[:, None], logits
