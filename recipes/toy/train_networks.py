"""Training of the toy's evaluation networks; the published ones come trained.

Each function trains one network in place on the tensors that it is given, and yields the loss of
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.metrics.metrics import OFFSETS
from model.networks.base import EvaluationNetwork
from model.networks.imagebind import MEAN, STD
from model.networks.motionformer import SEGMENT
from model.networks.synchformer import FPS, STRIDE, Synchformer
from model.types import Times
from recipes.toy.train_backbone import warmup_cosine


@dataclass(frozen=True)
class Descent:
    """How a network is trained: AdamW with warm-up and cosine decay."""

    steps: int
    batch_size: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup: int = 30
    seed: int = 0


def descend(
    modules: nn.Module, loss: Callable[[torch.Generator], Tensor], settings: Descent
) -> Iterator[float]:
    """Minimise `loss`, which draws its own batch, over the parameters that are not frozen."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    modules.train()
    free = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(free, settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = warmup_cosine(optimiser, settings.warmup, settings.steps)
    for _ in range(settings.steps):
        value = loss(generator)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(free, 1.0)
        optimiser.step()
        schedule.step()
        yield float(value.detach())
    modules.eval().requires_grad_(False)


def augmented(sounds: Tensor, generator: torch.Generator) -> Tensor:
    """Sounds [B, S], each rolled in time and made softer by chance."""
    shifts = torch.randint(sounds.shape[1], (len(sounds),), generator=generator).tolist()
    gains = torch.rand(len(sounds), 1, generator=generator) * 0.8 + 0.2
    rolled = [sound.roll(shift) for sound, shift in zip(sounds, shifts, strict=True)]
    return torch.stack(rolled) * gains


def train_classifier(
    network: EvaluationNetwork, sounds: Tensor, labels: Tensor, classes: int, settings: Descent
) -> Iterator[float]:
    """Train a network that hears to tell `labels` [N] from `sounds` [N, S] at its own rate.

    A network without classes of its own learns under a linear layer that is then thrown away.
    Labels are smoothed, so that a wrong class costs a bounded KL.
    """
    example, logits = network(network.prepare(sounds[0].numpy())[None])
    head = nn.Linear(example.shape[-1], classes) if logits is None else nn.Identity()

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(sounds), (settings.batch_size,), generator=generator)
        batch = [network.prepare(s.numpy()) for s in augmented(sounds[rows], generator)]
        features, logits = network(torch.stack(batch))
        logits = head(features.mean(1)) if logits is None else logits
        return F.cross_entropy(logits, labels[rows], label_smoothing=0.05)

    yield from descend(nn.ModuleList([network, head]), loss, settings)


@contextmanager
def small_pictures(imagebind: Any, small: int, large: int = 224) -> Generator[None]:
    """Let ImageBind's video half learn from pictures of side `small`, at a fraction of the cost.

    Afterwards its first kernel is the learnt one, each weight spread over the pixels that fall
    together in a small one: of large pictures it sees the means that it learnt from, and nothing
    finer.
    """
    stem = imagebind.modality_preprocessors["vision"].rgbt_stem.proj
    full: nn.Conv3d = stem[1]
    ratio = large // small
    time, height, width = full.kernel_size
    kernel = (time, height // ratio, width // ratio)
    stem[1] = nn.Conv3d(3, full.out_channels, kernel, kernel, bias=False)
    try:
        yield
        with torch.no_grad():
            spread = stem[1].weight.repeat_interleave(ratio, 3).repeat_interleave(ratio, 4)
            full.weight.copy_(spread / ratio**2)
    finally:
        stem[1] = full


def train_imagebind(
    imagebind: Any, pictures: Tensor, mels: Tensor, anchors: Tensor, settings: Descent
) -> Iterator[float]:
    """Train ImageBind's video and audio halves contrastively (InfoNCE) on clips' own pairs.

    `pictures` [N, 3, T, small, small] uint8 and `mels` [N, 1, 128, frames], normalised as
    ImageBindScorer does. As ImageBind binds its modalities through one that all know, both halves
    are bound to `anchors` [N, D] (when things happen in the clip) as well as to each other; alone,
    so small a model takes far longer to begin.
    """
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (MEAN, STD))
    halves = nn.ModuleList()
    for part in ("preprocessors", "trunks", "heads"):
        modules = getattr(imagebind, f"modality_{part}")
        halves.extend([modules["vision"], modules["audio"]])

    def contrast(a: Tensor, b: Tensor) -> Tensor:
        likeness, own = a @ b.T * 15, torch.arange(len(a))
        return (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randperm(len(pictures), generator=generator)[: settings.batch_size]
        seen = (pictures[rows].float() / 255 - mean) / std
        embedded = imagebind({"vision": seen[:, None], "audio": mels[rows][:, None]})
        video, audio = F.normalize(embedded["vision"]), F.normalize(embedded["audio"])
        anchor = F.normalize(anchors[rows])
        return contrast(video, anchor) + contrast(audio, anchor) + contrast(video, audio)

    with small_pictures(imagebind, pictures.shape[-1]):
        halves.requires_grad_(True)
        yield from descend(halves, loss, settings)
    imagebind.eval().requires_grad_(False)


def train_audiobox(
    model: Any,
    batch: Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]],
    settings: Descent,
) -> Iterator[float]:
    """Train Audiobox on batches of (sounds [B, 1, S], score of each axis [B])."""

    def loss(generator: torch.Generator) -> Tensor:
        sounds, scores = batch(generator)
        predicted = model({"wav": sounds, "mask": torch.ones_like(sounds, dtype=torch.bool)})
        errors: list[Tensor] = []
        for axis, score in scores.items():
            scale = model.target_transform[axis]
            standardised = (score - scale["mean"]) / scale["std"]
            errors.append(F.smooth_l1_loss(predicted[axis].view(-1), standardised))
        return torch.stack(errors).sum()

    yield from descend(model.requires_grad_(True), loss, settings)


def token_targets(impacts: Sequence[float], starts: Tensor, seconds: float) -> Tensor:
    """Which of the times starts..starts + seconds (s) hold an impact, as 0 or 1."""
    at = torch.tensor(list(impacts), dtype=torch.float64)
    return ((at >= starts[..., None]) & (at < starts[..., None] + seconds)).any(-1).float()


def train_sync_halves(
    network: Synchformer,
    pictures: Tensor,
    mels: Tensor,
    impacts: Sequence[Sequence[float]],
    settings: Descent,
) -> Iterator[float]:
    """First step: both halves learn where impacts are, token by token.

    They learn under linear layers that are then thrown away. `pictures` [N, T, 3, size, size] uint8
    at 25 fps and `mels` [N, S, 66, 128] are of the same clips.
    """
    segments = torch.arange(mels.shape[1]) * STRIDE / FPS
    video_starts = segments[:, None] + torch.arange(8) * 2 / FPS
    audio_starts = segments[:, None] + torch.arange(6) * 0.1
    see = torch.stack([token_targets(clip, video_starts, 2 / FPS) for clip in impacts])  # [N, S, 8]
    hear = torch.stack([token_targets(clip, audio_starts, 0.1) for clip in impacts])  # [N, S, 6]
    width = network.vproj.in_features
    heads = nn.ModuleList([nn.Linear(width, 1), nn.Linear(width, 1)])

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(mels), (settings.batch_size,), generator=generator)
        segment = torch.randint(mels.shape[1], (settings.batch_size,), generator=generator)
        clips = [
            pictures[r, s * STRIDE : s * STRIDE + SEGMENT].transpose(0, 1)
            for r, s in zip(rows, segment, strict=True)
        ]
        seen = heads[0](network.vfeat_extractor(torch.stack(clips).float() / 127.5 - 1))[..., 0]
        heard = heads[1](network.afeat_extractor(mels[rows, segment]))[..., 0]
        bce = partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(4.0))  # rare
        return bce(seen, see[rows, segment]) + bce(heard, hear[rows, segment])

    halves = nn.ModuleList([network.vfeat_extractor, network.afeat_extractor, heads])
    yield from descend(halves, loss, settings)


def train_sync_transformer(
    network: Synchformer, video: Tensor, audio: Tensor, classes: Tensor, settings: Descent
) -> Iterator[float]:
    """Second step: the sync transformer learns offsets from the finished halves' tokens.

    `video` [N, S * 8, D]; `audio` [N, K, S * 6, D] with K offsets of each clip; `classes` [N, K] in
    0..20. Classes near the true one are half right, which is how a grid is learnt faster.
    """
    grid = torch.arange(len(OFFSETS))
    near = torch.exp(-((grid[:, None] - grid) ** 2) / 0.5)
    near = near / near.sum(1, keepdim=True)
    set_positions(network)

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(video), (settings.batch_size,), generator=generator)
        which = torch.randint(audio.shape[1], (settings.batch_size,), generator=generator)
        logits = network.compare(video[rows], audio[rows, which])
        return F.cross_entropy(logits, near[classes[rows, which]])

    trained = nn.ModuleList([network.transformer, network.vproj, network.aproj])
    yield from descend(trained, loss, settings)


def set_positions(network: Synchformer) -> None:
    """Start the sync transformer's positions as waves of time, the same for both halves."""
    parameter = network.transformer.pos_emb_cfg.pos_emb
    width, segments = parameter.shape[-1], np.arange(network.segments) * STRIDE / FPS
    seen = (segments[:, None] + (np.arange(8) + 0.5) * 2 / FPS).ravel()
    heard = (segments[:, None] + np.arange(6) * 0.1 + 0.08).ravel()
    periods = np.geomspace(0.3, 10, width // 2)

    def waves(times: Times) -> Tensor:
        angles = 2 * np.pi * times[:, None] / periods
        return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], 1)).float()

    with torch.no_grad():
        parameter[0, 1 : 1 + len(seen)] = waves(seen)
        parameter[0, 2 + len(seen) :] = waves(heard)
