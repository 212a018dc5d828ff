"""What training minimises: the error of the velocity, over each clip's own latents."""

from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone
from model.sampling.diffusion import NoisyLatents
from model.sampling.guidance import ZEROED
from model.training.feature_batch import FeatureBatch


def stratified_times(size: int, generator: torch.Generator) -> Tensor:
    """Times [size] in 0..1, one from each of `size` equal intervals, for less noise in the loss."""
    return (torch.arange(size) + torch.rand(size, generator=generator)) / size


def clip_losses(
    backbone: Backbone,
    batch: FeatureBatch,
    latents: NoisyLatents,
    untold: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Squared error of the prediction over the latents that clips have.

    Call it while the bridge is conditioned on the clips' video; options go to the DiT. Clips that
    are `untold` [B] get no text, by the zeros that the backbone's guidance leaves text out with.

    Returns:
        Its mean over all latents of the batch, and that over each clip's own [B].
    """
    inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    if untold is not None:
        for name in ZEROED:
            if inputs.get(name) is not None:
                inputs[name] = inputs[name].masked_fill(untold[:, None, None], 0)
    predicted = backbone(latents.noisy, latents.t, **inputs, **options)
    error = (predicted - latents.target).square().mean(1)  # [B, L]
    present = torch.arange(error.shape[-1], device=error.device) < batch.latents[:, None]
    own = (error * present).sum(1) / present.sum(1)
    return error[present].mean(), own
