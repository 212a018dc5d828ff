"""PANNs' Cnn14_16k (Kong et al., arXiv 1912.10211; qiuqiangkong/audioset_tagging_cnn).

Its spectrogram is a convolution and a matrix, which lie among the published weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from model.networks.base import EvaluationNetwork, padded
from model.types import Audio

WINDOW, HOP, MELS = 512, 160, 64
LEAST = 32 * HOP  # samples: five halvings of its frames leave one


class Stft(nn.Module):
    """A Fourier transform of Hann windows as two fixed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.arange(WINDOW, dtype=torch.float64)
        angles = 2 * torch.pi * torch.outer(n[: WINDOW // 2 + 1], n) / WINDOW
        window = torch.hann_window(WINDOW, dtype=torch.float64)
        for name, waves in (("conv_real", angles.cos()), ("conv_imag", -angles.sin())):
            convolution = nn.Conv1d(1, WINDOW // 2 + 1, WINDOW, HOP, bias=False)
            convolution.requires_grad_(False).weight.copy_((waves * window)[:, None])
            self.add_module(name, convolution)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio [B, S], ends reflected -> power of frames centred at each hop [B, 257, T]."""
        around = F.pad(audio[:, None], (WINDOW // 2, WINDOW // 2), "reflect")
        real, imaginary = (self.get_submodule(f"conv_{part}")(around) for part in ("real", "imag"))
        return real**2 + imaginary**2


class Spectrogram(nn.Module):
    """The transform under its published name."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = Stft()

    def forward(self, audio: Tensor) -> Tensor:
        """Audio [B, S] -> power [B, 1, T, 257]."""
        return self.stft(audio).transpose(1, 2)[:, None]


class LogMel(nn.Module):
    """Mel bands of 50 to 8000 Hz (Slaney's scale and areas, as librosa's), in dB."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        bands = torchaudio.functional.melscale_fbanks(
            WINDOW // 2 + 1, 50.0, 8000.0, MELS, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.melW = nn.Parameter(bands, requires_grad=False)

    def forward(self, power: Tensor) -> Tensor:
        """[B, 1, T, 257] -> [B, 1, T, 64]."""
        return 10 * (power @ self.melW).clamp(min=1e-10).log10()


class ConvBlock(nn.Module):
    """Two convolutions with batch norm, and an average pool."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.bn2 = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor, pool: int) -> Tensor:
        """[B, C, T, F] -> [B, outer, T / pool, F / pool]."""
        return F.avg_pool2d(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu(), pool)


class Cnn14(EvaluationNetwork):
    """Tags of AudioSet (527 classes) and a feature of width 2048: KL-PANNs, FD-PANNs and IS."""

    name = "panns"
    sample_rate = 16000

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        features: int = 2048,
        classes: int = 527,
    ) -> None:
        super().__init__()
        self.spectrogram_extractor = Spectrogram()
        self.logmel_extractor = LogMel(self.sample_rate)
        self.bn0 = nn.BatchNorm2d(MELS)
        for i, (inner, outer) in enumerate(zip((1, *channels[:-1]), channels, strict=True), 1):
            self.add_module(f"conv_block{i}", ConvBlock(inner, outer))
        self.blocks = len(channels)
        self.fc1 = nn.Linear(channels[-1], features)
        self.fc_audioset = nn.Linear(features, classes)

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] -> [S], at least .32 s of it."""
        return padded(audio, LEAST)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio [B, S] -> log mel power, dB [B, 1, T, 64]."""
        return self.logmel_extractor(self.spectrogram_extractor(audio))

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [B, S] -> last hidden layer after its ReLU [B, 1, 2048], logits [B, 527]."""
        x = self.bn0(self.spectrogram(prepared).transpose(1, 3)).transpose(1, 3)
        for i in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{i}")(x, 2 if i < self.blocks else 1)
        x = x.mean(3)  # [B, C, T]
        features = self.fc1(x.amax(2) + x.mean(2)).relu()
        return features[:, None], self.fc_audioset(features)
