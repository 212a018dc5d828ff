"""Batches of cached features, and what of them the DiT is shown.

Shapes: B clips, J effective frames of P tokens of width V, C latent channels, L latent frames, N
text tokens of width D.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from model.backbone import Backbone
from model.presets.preset import ModelError
from model.sampling.canvas import Canvas


@dataclass(frozen=True)
class FeatureBatch:
    """Cached features of B clips: what training reads instead of video, audio and text."""

    video: Tensor  # [B, J, P, V], padded to the longest clip
    frames: Tensor  # [B] effective frames that each clip has
    latent_mean: Tensor  # [B, C, L]
    latent_scale: Tensor  # [B, C, L]
    latents: Tensor  # [B] latent frames that each clip has: L of them all, where there is no canvas
    text: Sequence[Tensor]  # each [N, D]
    seconds: Sequence[float]

    def to(self, device: torch.device) -> Self:
        """The same on a device, which copies what is pinned while it computes."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The same in page-locked memory, which a GPU reads by itself."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, text=[change(row) for row in self.text])


def cut_to_fit(batch: FeatureBatch, canvas: Canvas) -> FeatureBatch:
    """The clips as long as the shortest of them, because the DiT is shown no padding.

    A clip that is cut is a shorter clip: its video ends there too, and so do its seconds. On a
    canvas each clip has room for its own length, up to the canvas.
    """
    counts = batch.latents
    length = int(counts.min())
    if canvas.seconds is not None:
        length = min(int(counts.max()), canvas.length(0))
    frames = batch.frames.clamp(max=canvas.frames(length))
    most = int(frames.max())
    return replace(
        batch,
        video=batch.video[:, :most],
        frames=frames,
        latent_mean=batch.latent_mean[..., :length],
        latent_scale=batch.latent_scale[..., :length],
        latents=counts.clamp(max=length),
        seconds=[
            seconds if count <= length else length / canvas.latent_rate
            for seconds, count in zip(batch.seconds, counts.tolist(), strict=True)
        ],
    )


def on_canvas(batch: FeatureBatch, backbone: Backbone) -> FeatureBatch:
    """The batch as the DiT is shown it: with encoded silence after each clip up to the canvas.

    Without a canvas, the batch as it is. Raises ModelError if its clips then differ in length.
    """
    canvas, length = Canvas.of(backbone.preset), batch.latent_mean.shape[-1]
    if canvas.seconds is None:
        if bool((batch.latents != length).any()):
            raise ModelError(
                f"clips of {batch.latents.tolist()} latents in one batch: "
                "without a canvas the DiT would be shown padding"
            )
        return batch
    mean, scale = (part.to(batch.latent_mean)[:, None] for part in backbone.silence)
    room = 0, canvas.length(length) - length
    own = (torch.arange(length + room[1]) < batch.latents[:, None])[:, None]  # [B, 1, L]
    return replace(
        batch,
        latent_mean=torch.where(own, F.pad(batch.latent_mean, room), mean),
        latent_scale=torch.where(own, F.pad(batch.latent_scale, room), scale),
    )
