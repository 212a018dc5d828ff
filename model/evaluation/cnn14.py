"""Cnn14_16k of PANNs (Kong et al., arXiv 1912.10211; qiuqiangkong/audioset_tagging_cnn, `Cnn14_16k`).

Its spectrogram comes from torchlibrosa, as upstream, and lies in the published checkpoint with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from model.evaluation.network import EvaluationNetwork, Samples, padded

WINDOW, HOP, MELS = 512, 160, 64
LEAST = 32 * HOP  # samples: five halvings of its frames leave one


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
    """Audio tags of AudioSet (527 classes) and a 2048-dimensional feature: the network of KL-PANNs, FD-PANNs and IS."""

    stem = "panns"
    sample_rate = 16000

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        features: int = 2048,
        classes: int = 527,
    ) -> None:
        super().__init__()
        self.spectrogram_extractor = Spectrogram(
            n_fft=WINDOW, hop_length=HOP, win_length=WINDOW, freeze_parameters=True
        )
        unlimited: Any = None  # the library's types ask for a number
        self.logmel_extractor = LogmelFilterBank(
            sr=self.sample_rate, n_fft=WINDOW, n_mels=MELS, fmin=50, fmax=8000, top_db=unlimited, freeze_parameters=True
        )
        self.bn0 = nn.BatchNorm2d(MELS)
        for i, (inner, outer) in enumerate(zip((1, *channels[:-1]), channels, strict=True), 1):
            self.add_module(f"conv_block{i}", ConvBlock(inner, outer))
        self.blocks = len(channels)
        self.fc1 = nn.Linear(channels[-1], features)
        self.fc_audioset = nn.Linear(features, classes)

    def prepare(self, audio: Samples) -> Tensor:
        """Mono audio [S] -> [S], at least .32 s of it."""
        return padded(audio, LEAST)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio [B, S] -> log mel power, dB [B, 1, T, 64]."""
        return self.logmel_extractor(self.spectrogram_extractor(audio))

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [B, S] -> ReLU of the last hidden layer [B, 1, 2048], logits [B, 527] before the sigmoid."""
        x = self.bn0(self.spectrogram(prepared).transpose(1, 3)).transpose(1, 3)
        for i in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{i}")(x, 2 if i < self.blocks else 1)
        x = x.mean(3)  # [B, C, T]
        features = self.fc1(x.amax(2) + x.mean(2)).relu()
        return features[:, None], self.fc_audioset(features)
