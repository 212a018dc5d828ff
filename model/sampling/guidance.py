"""Classifier-free guidance of a backbone with a bridge: text and video as one, or each by its own scale.

**Joint** (`cfg` alone) is the backbone's own: v = v(no text, no video) + cfg * (v(text, video) - v(no text, no video)).
Two forwards a step, as one batch; one where cfg is 1.

**Separate** (`video_cfg` too), nested as in InstructPix2Pix (Brooks et al. 2023, section 3.2.1):
v = v(no text, no video) + cfg * (v(text, no video) - v(no text, no video)) + video_cfg * (v(text, video) - v(text, no
video)). Three forwards a step, as one batch; two where cfg is 1 or video_cfg is 0. With equal scales it is the joint
one, with video_cfg 0 the sound of the text alone, with video_cfg 1 the video counts as it was trained to.

"No text" is a zeroed prompt, or the negative prompt where there is one; "no video" is the learned
null token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone


@dataclass(frozen=True)
class Guidance:
    """The two scales; `video_cfg` None follows `cfg`."""

    cfg: float
    video_cfg: float | None = None

    @property
    def terms(self) -> list[tuple[float, bool, bool]] | None:
        """Separate guidance as a weighted sum: (weight, with text?, with video?) of each forward.

        None if joint.
        """
        if self.video_cfg is None or self.video_cfg == self.cfg:
            return None
        weights = (
            (self.video_cfg, True, True),
            (self.cfg - self.video_cfg, True, False),
            (1 - self.cfg, False, False),
        )
        return [term for term in weights if term[0]]

    def videos(self, videos: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The video of every row of the batch that `velocity` runs, before the backbone's own doubling."""
        if self.terms is None:
            return list(videos)
        return [video if seen else None for _, _, seen in self.terms for video in videos]

    def velocity(self, backbone: Backbone, x: Tensor, t: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Guided velocity [B, C, L] of latents x [B, C, L] at times t [B]; `inputs` as Backbone.inputs gives them.

        The bridge must be watching `videos`.
        """
        if self.terms is None:
            return backbone(x, t, cfg_scale=self.cfg, **inputs)
        count = len(self.terms)
        rows = _rows(inputs, [text for _, text, _ in self.terms])
        found = backbone(x.repeat(count, 1, 1), t.repeat(count), cfg_scale=1.0, **rows).chunk(count)
        return torch.stack(
            [weight * v for (weight, _, _), v in zip(self.terms, found, strict=True)]
        ).sum(0)


def _rows(inputs: dict[str, Any], texts: Sequence[bool]) -> dict[str, Any]:
    """The DiT's arguments for one copy of the batch a term, with the prompt or against it."""
    given: dict[str, Tensor] = {
        k: v for k, v in inputs.items() if v is not None and not k.startswith("negative_")
    }
    against = {
        k: torch.zeros_like(v) for k, v in given.items() if k in ("cross_attn_cond", "prepend_cond")
    }
    negative: Tensor | None = inputs.get("negative_cross_attn_cond")
    if negative is not None:
        against["cross_attn_cond"] = negative * inputs["negative_cross_attn_mask"][..., None]
    return {
        k: torch.cat([v if text else against.get(k, v) for text in texts]) for k, v in given.items()
    }
