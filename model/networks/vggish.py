"""VGGish (Hershey et al., arXiv 1609.09430) in the layout of harritaylor/torchvggish: FD-VGG."""

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn

from model.networks.base import EvaluationNetwork, padded
from model.types import Audio

WINDOW, HOP, FFT, MELS = 400, 160, 512, 64
PIECE = 96  # frames: .96 s
LEAST = WINDOW + (PIECE - 1) * HOP  # samples of one piece


class VGGish(EvaluationNetwork):
    """A feature of width 128 for every .96 s, before the last ReLU and without the PCA."""

    name = "vggish"
    sample_rate = 16000

    def __init__(
        self, channels: Sequence[int] = (64, 128, 256, 512), hidden: int = 4096, features: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 1
        for i, outer in enumerate(channels):
            for _ in range(1 if i < 2 else 2):
                layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
                inner = outer
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = inner * (PIECE >> len(channels)) * (MELS >> len(channels))
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, features),
        )  # fmt: skip
        # triangles on the HTK mel scale, 125..7500 Hz, [64, 257]
        mels, _ = torchaudio.compliance.kaldi.get_mel_banks(
            MELS, FFT, self.sample_rate, 125.0, 7500.0, 100.0, -500.0, 1.0
        )
        self.register_buffer("mels", nn.functional.pad(mels, (0, 1)), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] -> pieces that do not overlap [pieces, 96, 64], log(mel + .01)."""
        return self.spectrogram(padded(audio, LEAST))

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio [S] -> log mel magnitudes in whole pieces [pieces, 96, 64]; the rest is dropped."""
        frames = audio.unfold(0, WINDOW, HOP) * self.get_buffer("window").cpu()  # [T, 400]
        power = torch.fft.rfft(frames, FFT).abs() @ self.get_buffer("mels").cpu().T  # [T, 64]
        mel = (power + 0.01).log()
        return mel[: len(mel) // PIECE * PIECE].unflatten(0, (-1, PIECE))

    def forward(self, prepared: Tensor) -> tuple[Tensor, None]:
        """Pieces [B, pieces, 96, 64] -> features [B, pieces, 128]."""
        batch = prepared.shape[0]
        maps = self.features(prepared.flatten(0, 1)[:, None])  # [B * pieces, C, 6, 4]
        # time, mel, channel: the order in which the original TensorFlow network flattened them
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1)).unflatten(0, (batch, -1)), None
