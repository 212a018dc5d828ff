"""The bridge: video cross-attention in every DiT block of a frozen backbone (paper section 3.3).

SA -> text CA -> video CA -> FFN. Audio latents are queries, adapted video tokens are keys and
values. Only these layers are trained. stable-audio-tools' block has a slot (`conformer`) that it
runs as `x = x + slot(x)` between text cross-attention and feed-forward, which is where the bridge
goes in, without a copied or patched forward.

Shapes: B clips, Q positions of the DiT's sequence (prepended ones first), L latent frames, K video
tokens, D width of the DiT, V width of the video encoder, H heads of width E.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.presets.preset import ModelError
from model.presets.settings import BridgeSettings

Rotation = tuple[
    Tensor, Tensor
]  # cosines and sines [B or 1, 1, N, E / 2]: what turns queries or keys


@dataclass
class VideoCondition:
    """What the layers attend to during one forward (and its backward).

    The slot passes them nothing but x.
    """

    tokens: Tensor  # [B, K, V], standardised
    token_rotation: Rotation  # of keys
    mask: Tensor | None  # [B, K] True where there is a token; None: everywhere
    null: Tensor  # [V], the token of the second half of a batch doubled by classifier-free guidance
    n_latents: int
    latent_rotation: Rotation  # of queries

    def clips(self, size: int) -> int:
        """B, for a batch of B, or of 2 B where guidance appends the unconditional half."""
        if size not in (len(self.tokens), 2 * len(self.tokens)):
            raise ModelError(
                f"the bridge holds video of {len(self.tokens)} clips, the DiT runs {size}"
            )
        return len(self.tokens)


def rotation(positions: Tensor, width: int, base: float = 10000.0) -> Rotation:
    """What rotary position embedding turns heads of a width E by, at positions [B or 1, N]."""
    half = width // 2
    frequencies = base ** (
        -torch.arange(half, device=positions.device, dtype=torch.float32) / half
    )  # [E / 2]
    angles = positions.float()[:, None, :, None] * frequencies  # [B, 1, N, E / 2]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotary position embedding of x [B, H, N, E]; halves of a head are rotated together."""
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Adapter(nn.Module):
    """Two-layer MLP with GELU and residual addition, on the video path before K and V are formed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, K, V] -> [B, K, V]."""
        return tokens + self.down(F.gelu(self.up(tokens)))


class LearnedPool(nn.Module):
    """Queries that attend to the cells of an effective frame: pooling that is learned (the paper's future work).

    It starts next to the mean over the cells, which is frame pooling.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * 1e-3)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, J, P, V] -> [B, J, queries, V]."""
        scores = tokens @ self.queries.T / tokens.shape[-1] ** 0.5  # [B, J, P, queries]
        return scores.softmax(dim=2).transpose(2, 3) @ tokens


class BridgeLayer(nn.Module):
    """Video cross-attention of one block; its output is zero until trained."""

    def __init__(self, dim: int, video_dim: int, settings: BridgeSettings) -> None:
        super().__init__()
        inner = settings.heads * settings.head_dim
        self.settings = settings
        self.adapter = Adapter(video_dim, settings.adapter_width)
        norm = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[settings.norm]
        self.norm, self.video_norm = norm(dim), norm(video_dim)
        self.to_q = nn.Linear(dim, inner)
        self.to_kv = nn.Linear(video_dim, 2 * inner)
        self.to_out = nn.Linear(inner, dim, bias=False)
        if settings.zero_init:
            nn.init.zeros_(self.to_out.weight)
        if settings.rope_init == "peaked":
            self._peak()
        self.condition: VideoCondition | None = None
        self.kept: tuple[Tensor, Tensor, Tensor] | None = (
            None  # keys, values and the null token's output, in sampling
        )

    @torch.no_grad()
    def _peak(self) -> None:
        """Let attention start as a peak at equal times.

        Nearly constant q and k, told apart by their rotation only.
        """
        inner = self.to_q.out_features
        self.to_q.weight.mul_(0.3)
        self.to_q.bias.fill_(1.5)
        self.to_kv.weight[:inner].mul_(0.3)
        self.to_kv.bias[:inner].fill_(1.5)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.settings.heads, self.settings.head_dim)).transpose(
            1, 2
        )  # [B, H, N, E]

    def _keys_values(self, condition: VideoCondition, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        k, v = self.to_kv(self.video_norm(self.adapter(condition.tokens.to(dtype)))).chunk(
            2, dim=-1
        )
        return rotate(self._heads(k), condition.token_rotation), self._heads(v)

    def _without_video(self, condition: VideoCondition, dtype: torch.dtype) -> Tensor:
        """Output [D] where there is no video.

        All values are the null token's, whatever attention makes of them.
        """
        v = self.to_kv(self.video_norm(self.adapter(condition.null.to(dtype)))).chunk(2, dim=-1)[1]
        return self.to_out(v)

    @torch.no_grad()
    def keep(self) -> None:
        """Compute once what does not change from step to step of sampling.

        Dropped by whoever sets `condition`.
        """
        assert self.condition is not None
        dtype = self.to_kv.weight.dtype
        self.kept = (
            *self._keys_values(self.condition, dtype),
            self._without_video(self.condition, dtype),
        )

    def forward(self, x: Tensor) -> Tensor:
        """DiT sequence [B or 2 B, Q, D] -> what video adds to it; zero on prepended positions."""
        condition, kept = self.condition, self.kept
        if condition is None:
            return torch.zeros_like(x)
        clips, prefix = condition.clips(len(x)), x.shape[1] - condition.n_latents
        k, v = self._keys_values(condition, x.dtype) if kept is None else kept[:2]
        q = rotate(self._heads(self.to_q(self.norm(x[:clips, prefix:]))), condition.latent_rotation)
        seen = None if condition.mask is None else condition.mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # [B, H, L, E]
        added = F.pad(self.to_out(out.transpose(1, 2).flatten(2)), (0, 0, prefix, 0))
        if clips == len(x):
            return added
        without = self._without_video(condition, x.dtype) if kept is None else kept[2]
        rest = F.pad(without.expand(1, condition.n_latents, -1), (0, 0, prefix, 0))  # [1, Q, D]
        return torch.cat([added, rest.expand_as(added)])


class Bridge(nn.Module):
    """All layers of the bridge, the null video token, and the scale of the video features that it was trained on."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int,
        depth: int,
        video_dim: int,
        settings: BridgeSettings,
        latent_rate: float,
        token_rate: float,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.latent_rate, self.token_rate = latent_rate, token_rate
        self.layers = nn.ModuleList(BridgeLayer(dim, video_dim, settings) for _ in range(depth))
        self.null = nn.Parameter(torch.zeros(video_dim), requires_grad=settings.null == "learned")
        self.pool = LearnedPool(video_dim, settings.pool_queries) if settings.pool_queries else None
        self._lock = threading.Lock()
        self.register_buffer("mean", torch.zeros(video_dim))
        self.register_buffer("std", torch.ones(video_dim))

    @property
    def blocks(self) -> list[BridgeLayer]:
        """The layers, in the order of the DiT's blocks."""
        return [cast("BridgeLayer", layer) for layer in self.layers]

    def insert(self, dit: Any) -> None:
        """Put one layer into each block of a DiT (load the DiT's own weights before).

        Raises ModelError if the blocks are not as many as the layers, or their slot is taken.
        """
        blocks = list(dit.transformer.layers)
        if len(blocks) != len(self.layers) or any(block.conformer is not None for block in blocks):
            raise ModelError(
                f"the bridge has {len(self.layers)} layers for {len(blocks)} blocks with a free slot each"
            )
        for block, layer in zip(blocks, self.blocks, strict=True):
            block.conformer, block.conformer_scale = layer, nn.Identity()

    def remove(self, dit: Any) -> None:
        """Take the layers out again: the DiT is the bare backbone's."""
        for block in dit.transformer.layers:
            del block.conformer_scale
            block.conformer = None

    @torch.no_grad()
    def fit_scale(self, tokens: Tensor) -> None:
        """Set the per-channel mean and deviation of video tokens [..., V] that standardise every later input."""
        flat = tokens.reshape(-1, tokens.shape[-1]).float()
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0).clamp(min=1e-6))

    def _positions(
        self, tokens: Tensor, n_latents: int, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """RoPE positions of video tokens [J * P] and of latents [L].

        In shared seconds, or each by its own index.
        """
        frames, cells = tokens.shape[1:3]
        video = (
            torch.arange(frames, device=tokens.device, dtype=torch.float32)
            + offset * self.token_rate
        )
        audio = torch.arange(n_latents, device=tokens.device, dtype=torch.float32)
        if self.settings.rope_positions == "seconds":
            video = (video + 0.5) / self.token_rate * self.settings.rope_rate
            audio = (audio + 0.5) / self.latent_rate * self.settings.rope_rate
        return video.repeat_interleave(cells), audio

    @contextmanager
    def watching(
        self,
        tokens: Tensor,
        n_latents: int,
        *,
        frames: Tensor | None = None,
        seen: Tensor | None = None,
        offset: float = 0.0,
        sampling: bool = False,
    ) -> Generator[None]:
        """Let the layers attend to video tokens [B, J, P, V] until the block ends (include backward in it).

        The layers hold one condition at a time, so a second thread waits until the first has left
        the block.

        `frames` [B] is the number of effective frames that each clip has, where padded; `seen` [B]
        is False for clips whose video is replaced by the null token; `offset` is how many seconds
        after the first latent the first effective frame begins, where both are cut out of something
        longer; `sampling` keeps keys and values from step to step.
        """
        scaled = (tokens.float() - self.mean) / self.std
        if self.pool is not None:
            scaled = self.pool(scaled)
        batch, count, cells, _ = scaled.shape
        null = self.null.expand_as(scaled)
        if seen is not None:
            scaled = torch.where(seen[:, None, None, None], scaled, null)
        mask = None
        if frames is not None and bool(
            (frames < count).any()
        ):  # asked here once, because it waits for the device
            mask = (torch.arange(count, device=tokens.device) < frames[:, None]).repeat_interleave(
                cells, dim=1
            )
        token_positions, latent_positions = self._positions(scaled, n_latents, offset)
        by_token, by_latent = (
            rotation(at[None], self.settings.head_dim) for at in (token_positions, latent_positions)
        )
        condition = VideoCondition(
            tokens=scaled.reshape(batch, count * cells, -1),
            token_rotation=by_token,
            mask=mask,
            null=self.null,
            n_latents=n_latents,
            latent_rotation=by_latent,
        )
        with self._lock:
            try:
                for layer in self.blocks:
                    layer.condition = condition
                    if sampling:
                        layer.keep()
                yield
            finally:
                for layer in self.blocks:
                    layer.condition = layer.kept = None
