"""A stereo autoencoder that is a mono one twice, once for each channel.

A stereo one that started as one sound in both channels never learned to tell them apart, and one
that started as this lost it again in 300 steps of training: what is in both is nearly all that the
loss asks of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BOTTLENECK = "encoder.layers.4."  # gives the means of all latents, then their scales


@torch.no_grad()
def make_stereo(mono: Any, stereo: Any) -> None:
    """Copy an AudioAutoencoder into one of twice its width, as two that do not meet.

    Layers hold weight = g * v / |v|, with a norm an output channel, so zeros change no norm.
    """
    weights: dict[str, Tensor] = mono.state_dict()
    twice: dict[str, Tensor] = stereo.state_dict()  # the tensors themselves
    for key, value in twice.items():
        parts = weights[key].chunk(2) if key.startswith(_BOTTLENECK) else (weights[key],)
        value.copy_(torch.cat([_twice(part) for part in parts]))


def other_channel(latents: Tensor) -> Tensor:
    """Latents [B, C, L] of sounds -> those of the same with their channels swapped."""
    return torch.cat(latents.chunk(2, dim=1)[::-1], dim=1)


def _twice(weight: Tensor) -> Tensor:
    """Weights [O, I, k] -> [2 O, 2 I, k], zero between the channels; others [C, ...] -> [2 C, ...].

    What has one value a channel has no second dimension, or one of size 1.
    """
    if weight.ndim < 3 or weight.shape[1] == 1:
        return torch.cat([weight, weight])
    nothing = torch.zeros_like(weight)
    return torch.cat([torch.cat([weight, nothing], 1), torch.cat([nothing, weight], 1)])
