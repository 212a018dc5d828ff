"""What every network that scores clips or sounds is: frozen, with weights as published."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.presets.preset import ModelError, Preset
from model.types import Audio
from model.weights.device import choose_device
from model.weights.load import check_strict, files_revision, read_weights, without_values

Array = npt.NDArray[np.float32]


class Embedded(NamedTuple):
    """What a network makes of a clip: features [pieces, ..., D]; logits [classes], if any."""

    features: Array
    logits: Array | None = None


class FrozenNetwork(nn.Module):
    """A network under its name in model/presets/networks.toml."""

    name: ClassVar[str]
    sample_rate: ClassVar[int]  # Hz, of the sound that it takes
    needs_memory: ClassVar[bool] = False  # it cannot be built on the meta device

    @classmethod
    def build(cls, preset: Preset) -> Self:
        """Untrained, of the preset's size; raises ModelError for settings that it does not have."""
        try:
            return cls(**cls.arguments(preset))
        except TypeError as error:
            raise ModelError(f"preset {preset.name}, evaluation.{cls.name}: {error}") from None

    @classmethod
    def from_pretrained(cls, preset: Preset) -> Self:
        """The network with its published weights, on the accelerator if there is one.

        Raises:
            WeightsError: The weights are missing, or do not fit strictly.
            ModelError: The preset has settings that the network does not have.
        """
        with nullcontext() if cls.needs_memory else without_values():
            network = cls.build(preset)
        weights = {
            key: value.float() if value.is_floating_point() else value
            for key, value in network.check(preset).items()
        }
        network.body.load_state_dict(weights, assign=not cls.needs_memory)
        return network.eval().requires_grad_(False).to(choose_device())

    def check(self, preset: Preset) -> dict[str, Tensor]:
        """The preset's weights under the keys of `body`; raises WeightsError if they do not fit.

        It needs no values of the network's own, which may be on the meta device.
        """
        path = preset.model(self.name)
        weights = self.published(read_weights(path))
        check_strict(self.body, weights, path)
        return weights

    @property
    def body(self) -> nn.Module:
        """The module whose weights are published."""
        return self

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the keys of `body`, from those of the published file."""
        return dict(weights)

    @classmethod
    def revision(cls, preset: Preset) -> str:
        """Content hash of the weights."""
        return files_revision([preset.model(cls.name)])

    @classmethod
    def arguments(cls, preset: Preset) -> dict[str, object]:
        """Arguments of the class that the preset sets."""
        return dict(preset.evaluation.get(cls.name, {}))

    @classmethod
    def settings(cls, preset: Preset) -> dict[str, object]:
        """What evaluation's stages take into their fingerprints."""
        return cls.arguments(preset)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device


class EvaluationNetwork(FrozenNetwork):
    """A network whose features and classes evaluation compares."""

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] at `sample_rate` -> what `forward` takes of one clip."""
        raise NotImplementedError

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prepared sounds of B clips, stacked -> features [B, pieces, D], logits [B, classes]."""
        raise NotImplementedError

    @torch.inference_mode()
    def hear(self, sounds: Sequence[Audio]) -> list[Embedded]:
        """Mono sounds at `sample_rate`, without DC -> one each; those of a length together."""
        prepared = [self.prepare(sound) for sound in sounds]
        heard: dict[int, Embedded] = {}
        for shape in dict.fromkeys(p.shape for p in prepared):
            rows = [i for i, p in enumerate(prepared) if p.shape == shape]
            features, logits = self(torch.stack([prepared[i] for i in rows]).to(self.device))
            for n, i in enumerate(rows):
                classes = None if logits is None else to_numpy(logits[n])
                heard[i] = Embedded(to_numpy(features[n]), classes)
        return [heard[i] for i in range(len(sounds))]


def to_numpy(tensor: Tensor) -> Array:
    """A tensor as float32 in this process's memory."""
    return tensor.detach().float().cpu().numpy()


def padded(audio: Audio, least: int) -> Tensor:
    """Audio [S], with silence after it where it is shorter than `least` samples."""
    return torch.from_numpy(np.pad(audio, (0, max(0, least - len(audio)))).astype(np.float32))
