"""Self-supervised training of a toy V-JEPA2: predict what is masked.

An encoder sees the pictures of a clip that are left visible; transformers' predictor tells from
them the features of the hidden ones, as a slowly following copy of the encoder gives them for the
whole clip (Bardes et al. 2024, Assran et al. 2025). No impact time and no sound is used. What it is
good for in the toy, and what not: docs/toy.md.

Shapes: B clips, T frames, J effective frames (T / 2), C cells of a picture, N = J * C tubelets, D
width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.types import Frames
from model.video_encoder import VJepa2Encoder
from recipes.toy.train_backbone import warmup_cosine


@dataclass(frozen=True)
class VideoTraining:
    """How the video encoder is trained.

    Where V-JEPA hides parts of the picture throughout the clip, this hides whole pictures for a
    while, so that what moves has to be followed. The patch projection stays as it is (Chen et al.
    2021, on training vision transformers without labels): trained, it forgets what moves in favour
    of what is the same all the time.
    """

    steps: int = 1200
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    warmup: int = 60
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    # of the following copy at the start; it rises to 1 as the learning rate falls to 0
    momentum: float = 0.99
    hidden: float = 0.5  # share of the effective frames that are hidden, in runs of up to `longest`
    longest: int = 2
    # biases of q and k at the start: attention is then near at hand, in time and place
    peak: float = 2.0
    seed: int = 0


def pixels_of(frames: Frames) -> Tensor:
    """RGB frames [B, T, H, W, 3] -> the encoder's standardised pixels [B, T, 3, H, W]."""
    mean, std = torch.tensor(VJepa2Encoder.mean), torch.tensor(VJepa2Encoder.std)
    return ((torch.from_numpy(frames).float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)


def draw_masks(
    clips: int, frames: int, cells: int, settings: VideoTraining, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ascending indices of visible [B, Nv] and masked [B, Nm] tubelets, as many in every clip."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    hidden = torch.zeros(clips, frames, dtype=torch.bool)
    for clip in hidden:
        while (left := round(frames * settings.hidden) - int(clip.sum())) > 0:
            start = below(frames)
            clip[start : start + min(left, 1 + below(settings.longest))] = True
    tubelets = hidden.repeat_interleave(cells, dim=1)  # [B, N]
    visible, masked = (mask.nonzero()[:, 1].view(clips, -1) for mask in (~tubelets, tubelets))
    return visible, masked


def encode_embedded(encoder: Any, embedded: Tensor, shown: Tensor | None = None) -> Tensor:
    """Projected tubelets [B, N, D] -> features of all, or of those `shown` alone [B, Nv, D]."""
    hidden = embedded if shown is None else _at(embedded, shown)
    for layer in encoder.layer:
        hidden = layer(hidden, shown)[0]  # positions are those in the whole clip
    return encoder.layernorm(hidden)


def targets_of(target: Any, embedded: Tensor, frames: int) -> Tensor:
    """What is to be predicted [B, N, D]: features less each cell's mean over time, at deviation 1.

    Without the mean, what stays the same (colours, the backdrop) would be most of the loss, and
    soon all of the features.
    """
    features = encode_embedded(target, embedded)
    features = F.layer_norm(features, features.shape[-1:])
    features = features.unflatten(1, (frames, -1))  # [B, J, C, D]
    moving = features - features.mean(1, keepdim=True)
    return (moving / (moving.std((0, 1, 2)) + 1e-3)).flatten(1, 2)


def masked_loss(
    model: Any, target: Any, embedded: Tensor, visible: Tensor, masked: Tensor
) -> Tensor:
    """L1 distance of what the predictor says of the masked tubelets [B, Nm] from their targets."""
    frames = embedded.shape[1] // (model.config.crop_size // model.config.patch_size) ** 2
    with torch.no_grad():
        wanted = _at(targets_of(target, embedded, frames), masked)
    seen = encode_embedded(model.encoder, embedded, visible)
    # the predictor takes them from their places again
    placed = torch.zeros_like(embedded).scatter(1, visible[..., None].expand_as(seen), seen)
    predicted = model.predictor(placed, [visible], [masked]).last_hidden_state
    return (predicted - wanted).abs().mean()


def _at(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def start_near(model: Any, peak: float) -> None:
    """Let attention start as a peak at equal positions, by the biases of queries and keys."""
    for layer in [*model.encoder.layer, *model.predictor.layer]:
        for part in (layer.attention.query, layer.attention.key):
            nn.init.constant_(part.bias, peak)


def train_video(model: Any, clips: Frames, settings: VideoTraining) -> Iterator[float]:
    """Train a transformers VJEPA2Model in place on clips [count, T, H, W, 3], a loss a step.

    Its encoder ends as the slow copy.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    start_near(model, settings.peak)
    with torch.no_grad():  # once, because the projection is not trained
        parts = [
            model.encoder.embeddings(pixels_of(clips[i : i + 16])) for i in range(0, len(clips), 16)
        ]
    embedded = torch.cat(parts)  # [count, N, D]
    target = copy.deepcopy(model.encoder).eval().requires_grad_(False)
    model.train().requires_grad_(True)
    model.encoder.embeddings.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
    )
    schedule = warmup_cosine(optimiser, settings.warmup, settings.steps)
    frames = clips.shape[1] // model.config.tubelet_size
    for _ in range(settings.steps):
        rows = torch.randint(len(clips), (settings.batch_size,), generator=generator)
        masks = draw_masks(
            settings.batch_size, frames, embedded.shape[1] // frames, settings, generator
        )
        loss = masked_loss(model, target, embedded[rows], *masks)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        share = schedule.get_last_lr()[0] / settings.learning_rate
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), model.encoder.parameters(), strict=True):
                slow.lerp_(fast, (1 - settings.momentum) * share)
        yield float(loss.detach())
    model.encoder.load_state_dict(target.state_dict())
    model.eval().requires_grad_(False)
