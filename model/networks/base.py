"""What every evaluation network is.

Sounds or pictures in, features (and classes) out, weights as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.presets.preset import Preset
from model.weights.load import files_revision, load_strict, read_weights

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
SCORER_RATE = 16000  # Hz, of the sound that ImageBind and Audiobox hear
Array = npt.NDArray[np.float32]


class Embedded(NamedTuple):
    """What a network says of one clip.

    Features [pieces, ..., D], and logits [classes] where it classifies.
    """

    features: Array
    logits: Array | None = None


class EvaluationNetwork(nn.Module):
    """Base of the networks of evaluation; `stem` is their name among a preset's models."""

    stem: ClassVar[str]
    sample_rate: ClassVar[int]

    @classmethod
    def from_pretrained(cls, preset: Preset) -> Self:
        """Load the published weights strictly, on the accelerator if there is one."""
        path = preset.model(cls.stem)
        network = cls(**cls.settings(preset))
        weights = cls.published(read_weights(path))
        load_strict(
            network,
            {
                key: value.float() if value.is_floating_point() else value
                for key, value in weights.items()
            },
            path,
        )
        return (
            network.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
        )

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the weights."""
        return files_revision([preset.model(cls.stem)])

    @classmethod
    def settings(cls, preset: Preset) -> dict[str, Any]:
        """What the preset says of the network, if it is not as published."""
        return dict(preset.evaluation.get(cls.stem, {}))

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under this module's own keys, from those of the published file."""
        return dict(weights)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def prepare(self, audio: Samples) -> Tensor:
        """Mono audio [S] at `sample_rate` -> what `forward` takes of one clip."""
        raise NotImplementedError

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prepared sounds of B clips, stacked -> features [B, pieces, D], logits [B, classes]."""
        raise NotImplementedError

    @torch.inference_mode()
    def hear(self, sounds: Sequence[Samples]) -> list[Embedded]:
        """Mono sounds at `sample_rate`, without DC -> one Embedded each.

        Sounds of one length go through together.
        """
        prepared = [self.prepare(sound) for sound in sounds]
        found: dict[int, Embedded] = {}
        for shape in dict.fromkeys(p.shape for p in prepared):
            rows = [i for i, p in enumerate(prepared) if p.shape == shape]
            features, logits = self(torch.stack([prepared[i] for i in rows]).to(self.device))
            for n, i in enumerate(rows):
                found[i] = Embedded(
                    to_numpy(features[n]), None if logits is None else to_numpy(logits[n])
                )
        return [found[i] for i in range(len(sounds))]


def to_numpy(tensor: Tensor) -> Array:
    """A tensor as float32 in this process's memory."""
    return tensor.detach().float().cpu().numpy()


def padded(audio: Samples, least: int) -> Tensor:
    """Audio [S], with silence after it where it is shorter than `least` samples."""
    return torch.from_numpy(np.pad(audio, (0, max(0, least - len(audio)))).astype(np.float32))


def parameter_count(module: Any) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
