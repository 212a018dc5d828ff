"""The VAE's start: the toy's, mono, on both channels of a stereo one.

From random weights the decoder found the noise between hits in hundreds of steps and no hit in
thousands: hits of worlds are of many pitches, where the toy's are of four.
"""

from __future__ import annotations

from typing import Any

import torch

from model.presets.preset import load_preset
from model.weights.load import read_weights

_PREFIX = "pretransform.model."
_FIRST, _LAST = "encoder.layers.0.", "decoder.layers.4."  # they see and make both channels
_BOTTLENECK, _LATENTS = "encoder.layers.4.", "decoder.layers.0."


@torch.no_grad()
def start_from_toy(autoencoder: Any) -> None:
    """Copy the toy's autoencoder into a stereo one of the same layers, with more latents.

    Layers hold weight = g * v / |v|, with a norm an output channel. What the toy has no weights for
    (the latents beyond its own) stays random, and is hardly heard by the decoder.
    """
    weights = read_weights(load_preset("toy").model("backbone"))
    toy = {
        key.removeprefix(_PREFIX): value.float()
        for key, value in weights.items()
        if key.startswith(_PREFIX)
    }
    own: dict[str, torch.Tensor] = autoencoder.state_dict()  # the tensors themselves
    for key, value in own.items():
        if toy[key].shape == value.shape:
            value.copy_(toy[key])
    own[_FIRST + "weight_v"].copy_(torch.cat([toy[_FIRST + "weight_v"]] * 2, 1))
    own[_FIRST + "weight_g"].copy_(toy[_FIRST + "weight_g"] / 2**0.5)  # of the channels' mean
    for part in ("weight_g", "weight_v"):
        own[_LAST + part].copy_(torch.cat([toy[_LAST + part]] * 2))
    latents, more = (len(of[_BOTTLENECK + "bias"]) // 2 for of in (toy, own))
    for part in ("bias", "weight_g", "weight_v"):
        mean, scale = toy[_BOTTLENECK + part].chunk(2)
        own[_BOTTLENECK + part][:latents] = mean
        own[_BOTTLENECK + part][more : more + latents] = scale
    own[_LATENTS + "weight_v"][:, latents:] *= 0.1
    own[_LATENTS + "weight_v"][:, :latents] = toy[_LATENTS + "weight_v"]
