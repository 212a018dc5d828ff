"""Post-training by preference: a clip's own sound against one that is false by rule.

Diffusion-DPO (Wallace et al. 2023, equation 14): no person judges and no reward is learned, because
any sound that is shifted, or another clip's, is known not to be the picture's.

Shapes: B clips, C latent channels, L latent frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.training.feature_batch import FeatureBatch

LEAST_SHIFT = 0.12  # seconds: what is nearer in time may sound right
OTHERS = 0.4  # share of false sounds that are another clip's; the rest are the own, shifted


def false_latents(clean: Tensor, batch: FeatureBatch, generator: torch.Generator) -> Tensor:
    """A false sound for each clip -> latents [B, C, L].

    It is the own one that begins elsewhere (what falls off its end comes at its beginning), or
    another clip's of the batch; what comes after a clip's own latents stays where it is.

    Args:
        clean: the clips' own latents [B, C, L].
        batch: how many of these they have, and how many seconds that is.
        generator: of the processor.
    """
    size, length = len(clean), clean.shape[-1]
    own, counts = torch.arange(size), batch.latents.cpu()[:, None]  # [B], [B, 1]
    draw = torch.rand(3, size, generator=generator)
    other = (own + 1 + (draw[0] * (size - 1)).long()) % size
    of_other = (draw[1] < OTHERS) & (size > 1)
    least = LEAST_SHIFT * counts / torch.tensor(batch.seconds)[:, None]
    shift = (least + draw[2, :, None] * (counts - 2 * least)).round().long().clamp(min=1)
    at = torch.arange(length).expand(size, -1)
    shifted = torch.where(at < counts, (at - shift) % counts, at)
    index = torch.where(of_other[:, None], at, shifted).to(clean.device)
    source = torch.where(of_other, other, own).to(clean.device)
    return clean[source].gather(2, index[:, None].expand_as(clean))


def preference_loss(margin: Tensor, reference: Tensor, seen: Tensor, beta: float) -> Tensor:
    """How little more the own sound is preferred than before -> a scalar.

    Args:
        margin: error of the false sound less that of the own [B].
        reference: the same of the bridge that this training began with [B].
        seen: clips whose video is shown [B]; the others cannot tell and do not count.
        beta: how sharply; the higher, the sooner a clip has learned enough.
    """
    each = -F.logsigmoid(beta * (margin - reference))
    seen = seen.to(each.device)
    return (each * seen).sum() / seen.sum().clamp(min=1)
