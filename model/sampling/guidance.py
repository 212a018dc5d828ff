"""Classifier-free guidance of a backbone with a bridge: by text and video as one, or by each alone.

With v(text, video) for the predicted velocity, and - for what is left out:

**Joint** (`cfg` alone) is the backbone's own: v(-, -) + cfg * (v(text, video) - v(-, -)).
Two forwards a step, as one batch; one where cfg is 1.

**Separate** (`video_cfg` too), nested as in InstructPix2Pix (Brooks et al. 2023, section 3.2.1):
v(-, -) + cfg * (v(text, -) - v(-, -)) + video_cfg * (v(text, video) - v(text, -)).
Three forwards a step, as one batch; two where cfg is 1 or video_cfg is 0. With equal scales it is
the joint one, with video_cfg 0 the sound of the text alone, with video_cfg 1 the video counts as
it was trained to.

No text is a zeroed prompt, or the negative prompt where there is one; no video is the bridge's
null token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.backbone import Backbone

Video = TypeVar("Video")
ZEROED = ("cross_attn_cond", "prepend_cond")  # the DiT's arguments that hold the prompt


@dataclass(frozen=True)
class Guidance:
    """The two scales; `video_cfg` None follows `cfg`."""

    cfg: float
    video_cfg: float | None = None

    @property
    def terms(self) -> list[tuple[float, bool, bool]] | None:
        """Separate guidance as a sum of (weight, with text?, with video?); None if joint."""
        if self.video_cfg is None or self.video_cfg == self.cfg:
            return None
        weights = (
            (self.video_cfg, True, True),
            (self.cfg - self.video_cfg, True, False),
            (1 - self.cfg, False, False),
        )
        return [term for term in weights if term[0]]

    def videos(self, videos: Sequence[Video | None]) -> list[Video | None]:
        """The video of every row of the batch that `velocity` gives to the backbone."""
        if self.terms is None:
            return list(videos)
        return [video if seen else None for _, _, seen in self.terms for video in videos]

    def velocity(self, backbone: Backbone, x: Tensor, t: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The guided velocity; the bridge must be conditioned on `videos`.

        Args:
            backbone: what predicts velocities, with the bridge in it.
            x: noisy latents [B, C, L].
            t: their times [B], in 0..1.
            inputs: the DiT's other arguments for the B clips, from `Backbone.inputs`.

        Returns:
            Velocity [B, C, L].
        """
        if self.terms is None:
            return backbone(x, t, cfg_scale=self.cfg, **inputs)
        count = len(self.terms)
        rows = _rows(inputs, [text for _, text, _ in self.terms])
        velocities = backbone(x.repeat(count, 1, 1), t.repeat(count), cfg_scale=1.0, **rows)
        pairs = zip(self.terms, velocities.chunk(count), strict=True)
        return torch.stack([weight * v for (weight, _, _), v in pairs]).sum(0)


def _rows(inputs: dict[str, Any], texts: Sequence[bool]) -> dict[str, Tensor]:
    """The DiT's arguments for copies of the batch, one a member of `texts`: with text or without.

    Zeroed are the arguments that the backbone's own guidance zeroes, so that both agree.
    """
    given: dict[str, Tensor] = {
        k: v for k, v in inputs.items() if v is not None and not k.startswith("negative_")
    }
    without = {k: torch.zeros_like(given[k]) for k in given if k in ZEROED}
    negative: Tensor | None = inputs.get("negative_cross_attn_cond")
    if negative is not None:
        without["cross_attn_cond"] = negative * inputs["negative_cross_attn_mask"][..., None]
    return {
        k: torch.cat([v if text else without.get(k, v) for text in texts]) for k, v in given.items()
    }
