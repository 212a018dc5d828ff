"""A micro-batch of training: what is drawn for it, and what is minimised."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.presets.settings import TrainSettings
from model.sampling.diffusion import NoisyLatents, diffuse
from model.training.feature_batch import FeatureBatch
from model.training.loss import clip_losses, stratified_times
from model.training.preference import false_latents, preference_loss


@dataclass(frozen=True)
class Draws:
    """What follows from a seed for B clips, on their device."""

    seed: int
    latents: NoisyLatents
    video: VideoBatch
    seen: Tensor  # [B] clips that are shown their video
    untold: Tensor | None  # [B] clips without text; none: all have it
    false: NoisyLatents | None  # false sounds at the same times and noise, where they are asked for


def draw(
    batch: FeatureBatch, settings: TrainSettings, seed: int, tokens: int, objective: str
) -> Draws:
    """The draws of a seed.

    Args:
        batch: the clips, on the device they are trained on.
        settings: what is left out, and how often.
        seed: of a generator on the processor, so that every device draws the same.
        tokens: of an effective frame that layers attend to.
        objective: what the backbone predicts, for `diffuse`.
    """
    device, size = batch.video.device, len(batch.video)
    generator = torch.Generator().manual_seed(seed)
    t = stratified_times(size, generator)[torch.randperm(size, generator=generator)]
    noise = torch.randn((2, *batch.latent_mean.shape), generator=generator).to(device)
    seen = torch.rand(size, generator=generator) >= settings.video_drop
    kept = untold = None
    if settings.joint_drop:
        untold = torch.rand(size, generator=generator) < settings.joint_drop
        seen &= ~untold
    if settings.token_drop:
        shape = size, batch.video.shape[1], tokens
        kept = torch.rand(shape, generator=generator) >= settings.token_drop
    clean, t = batch.latent_mean + batch.latent_scale * noise[0], t.to(device)
    false = None
    if settings.preference:
        wrong = false_latents(clean, batch, generator)
        false = diffuse(wrong, t, noise[1], objective)
    kept, untold = (x if x is None else x.to(device) for x in (kept, untold))
    seen = seen.to(device)
    video = VideoBatch(batch.video, batch.frames, seen, kept=kept)
    return Draws(seed, diffuse(clean, t, noise[1], objective), video, seen, untold, false)


class MicroBatchLoss(nn.Module):
    """Losses of a micro-batch, as a module that has the bridge's parameters and no other."""

    def __init__(self, backbone: Backbone, bridge: Bridge, settings: TrainSettings) -> None:
        super().__init__()
        self.bridge, self.settings = bridge, settings
        self._frozen = (backbone,)  # in a tuple, so that it is no part of this module

    def forward(
        self, batch: FeatureBatch, draws: Draws, reference: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and each clip's v-loss [B]."""
        loss, own = self._losses(batch, draws, draws.latents)
        if draws.false is None or reference is None:
            return loss, own
        margin = self._losses(batch, draws, draws.false)[1] - own
        beta = self.settings.preference_beta
        preferred = preference_loss(margin, reference, draws.seen, beta)
        return loss + self.settings.preference * preferred, own

    def margin(self, batch: FeatureBatch, draws: Draws) -> Tensor:
        """How much worse false sounds are predicted than the clips' own [B]."""
        assert draws.false is not None
        false, own = (
            self._losses(batch, draws, latents)[1] for latents in (draws.false, draws.latents)
        )
        return false - own

    def _losses(
        self, batch: FeatureBatch, draws: Draws, latents: NoisyLatents
    ) -> tuple[Tensor, Tensor]:
        # the library drops text by the global generator: the same one's each time
        torch.manual_seed(draws.seed + 1)
        options = {
            "cfg_dropout_prob": self.settings.text_drop,
            "use_checkpointing": self.settings.checkpointing,
        }
        return clip_losses(*self._frozen, batch, latents, untold=draws.untold, **options)
