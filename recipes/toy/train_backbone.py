"""Training of the toy backbone: its VAE and its DiT, which the bridge then finds frozen.

The full-size backbone comes trained; this exists so that the toy one needs no download. Each
training happens as its losses, one a step, are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.sampling.diffusion import diffuse
from model.training.loss import stratified_times


@dataclass(frozen=True)
class VaeTraining:
    """How the VAE is trained: whole, then its decoder alone on each sound's own terms.

    Measured relative to the batch, the decoder blurs short quiet sounds (wood); measured sound by
    sound from the start, it falls silent on the hardest ones (glass). So the first comes first.
    Latents are final after it.
    """

    steps: int = 2500
    decoder_steps: int = 800
    learning_rate: float = 2e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.8, 0.99)
    windows: tuple[int, ...] = (1024, 256, 64)
    # pitches that vary cannot be told to a bin of a long window, and what is most often there is
    # nothing: the decoder is then silent. So bins of long windows may be taken together in bands,
    # and levels under a floor (of a sample's amplitude) be no matter
    bands: int | None = None  # of windows of 512 samples or more
    floor: float | None = None
    l1_weight: float = 0.2
    kl_weight: float = 3e-4
    seed: int = 0


@dataclass(frozen=True)
class DitTraining:
    """How the DiT is trained, on latents and text."""

    steps: int = 2200
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    text_drop: float = 0.1
    seed: int = 0


def spectral_distance(a: Tensor, b: Tensor, settings: VaeTraining, *, each: bool = False) -> Tensor:
    """Multi-resolution STFT distance of audio [B, channels, S].

    The mean of spectral convergence and log magnitude. Convergence is relative to the energy of the
    batch, or, with `each`, to that of each sound by itself, so that short quiet ones count as much
    as long loud ones.
    """
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    total = a.new_zeros(())
    for size in settings.windows:
        window = torch.hann_window(size, device=a.device)
        x, y = (
            torch.stft(v, size, size // 4, window=window, return_complex=True).abs().clamp(min=1e-5)
            for v in (a, b)
        )
        if settings.bands and size >= 512:
            x, y = (_in_bands(v, settings.bands) for v in (x, y))
        apart, own = (v.flatten(1).norm(dim=1) for v in (x - y, y))  # [B]
        convergence = (apart / own).mean() if each else apart.norm() / own.norm()
        floor = (settings.floor or 0.0) * size**0.5
        total = total + convergence + ((x + floor).log() - (y + floor).log()).abs().mean()
    return total / len(settings.windows)


def _in_bands(magnitude: Tensor, bands: int) -> Tensor:
    """Magnitudes [B, F, T] -> of bands that are even in log frequency, but a bin wide or more."""
    bins = magnitude.shape[1]
    edges = torch.logspace(math.log10(3), math.log10(bins), bands + 1).round().long()
    edges[0] = 0
    parts = [
        magnitude[:, low : max(int(high), int(low) + 1)].square().sum(1)
        for low, high in pairwise(edges)
    ]
    return torch.stack(parts, 1).sqrt()


def train_vae(
    autoencoder: Any, batches: Iterator[Tensor], settings: VaeTraining
) -> Iterator[float]:
    """Train an AudioAutoencoder in place on batches [B, channels, S], then its decoder alone."""
    torch.manual_seed(settings.seed)
    autoencoder.train().requires_grad_(True)

    def loss() -> Tensor:
        audio = next(batches)
        latents, info = autoencoder.encode(audio, return_info=True)
        decoded = autoencoder.decode(latents)
        relative = (decoded - audio).abs().mean() / audio.abs().mean()
        distance = spectral_distance(decoded, audio, settings)
        return distance + settings.l1_weight * relative + settings.kl_weight * info["kl"]

    def decoder_loss() -> Tensor:
        audio = next(batches)
        with torch.no_grad():
            latents = autoencoder.encode(audio)
        return spectral_distance(autoencoder.decode(latents), audio, settings, each=True)

    yield from _descend(autoencoder, loss, settings, settings.steps)
    halved = replace(settings, learning_rate=settings.learning_rate / 2)
    yield from _descend(autoencoder.decoder, decoder_loss, halved, settings.decoder_steps)
    autoencoder.eval().requires_grad_(False)


def warmup_cosine(
    optimiser: torch.optim.Optimizer, warmup: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate that rises linearly over `warmup` steps and falls to zero as half a cosine."""

    def factor(step: int) -> float:
        rise, fall = min(1.0, (step + 1) / warmup), math.pi * min(1.0, step / steps)
        return rise * 0.5 * (1 + math.cos(fall))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _descend(
    module: nn.Module, loss: Callable[[], Tensor], settings: VaeTraining, steps: int
) -> Iterator[float]:
    """Minimise `loss`, which draws its own batch, over the parameters of `module`."""
    optimiser = torch.optim.AdamW(module.parameters(), settings.learning_rate, settings.betas)
    schedule = warmup_cosine(optimiser, settings.warmup, steps)
    for _ in range(steps):
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        yield float(value.detach())


@dataclass(frozen=True)
class LatentClips:
    """Latents of clips of one length, and the text of each."""

    mean: Tensor  # [clips, C, L]
    scale: Tensor  # [clips, C, L]
    text: Sequence[Tensor]  # each [N, D]
    seconds: float


def train_dit(
    backbone: Backbone, groups: Sequence[LatentClips], settings: DitTraining
) -> Iterator[float]:
    """Train the backbone's DiT and number conditioners by v-prediction, on clips of all lengths."""
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    numbers = [
        c for c in backbone.model.conditioner.conditioners.values() if not hasattr(c, "tokenizer")
    ]
    modules = nn.ModuleList([backbone.dit, *numbers]).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(
        modules.parameters(),
        settings.learning_rate,
        settings.betas,
        weight_decay=settings.weight_decay,
    )
    schedule = warmup_cosine(optimiser, settings.warmup, settings.steps)
    shares = torch.tensor([float(len(group.text)) for group in groups])
    for _ in range(settings.steps):
        group = groups[int(torch.multinomial(shares, 1, generator=generator))]
        # longer clips in smaller batches: every step sees about the same number of latents
        size = max(1, math.ceil(settings.batch_size * groups[0].seconds / group.seconds))
        rows = torch.randint(len(group.text), (size,), generator=generator)
        clean = group.mean[rows] + group.scale[rows] * torch.randn(
            group.mean[rows].shape, generator=generator
        )
        t = stratified_times(size, generator)
        latents = diffuse(clean, t, torch.randn(clean.shape, generator=generator))
        conditioning = backbone.conditioning(
            [group.text[int(row)] for row in rows], [group.seconds] * size
        )
        predicted = backbone(
            latents.noisy, t, cfg_dropout_prob=settings.text_drop, **backbone.inputs(conditioning)
        )
        loss = (predicted - latents.target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), settings.clip_norm)
        optimiser.step()
        schedule.step()
        yield float(loss.detach())
    backbone.eval().requires_grad_(False)
