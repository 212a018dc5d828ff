"""The bridge: video cross-attention in every DiT block of a frozen backbone (paper section 3.3).

SA -> text CA -> video CA -> FFN. Audio latents are queries, adapted video tokens are keys and
values. Only these layers are trained. stable-audio-tools' block has a slot (`conformer`) that it
runs as `x = x + slot(x)` between text cross-attention and feed-forward, which is where the bridge
goes in, without a copied or patched forward.

Shapes: B clips, J effective frames of P tokens each, Q positions of the DiT's sequence (prepended
ones first), L latent frames, K = J * P video tokens, D width of the DiT, V width of the video
encoder, H heads of width E.
"""

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

Rates = tuple[float, float]  # latent frames, and effective frames of the video, a second
FrameShape = tuple[int, int]  # tokens of an effective frame, and their width: P, V
Rotation = tuple[Tensor, Tensor]  # cosines and sines [B or 1, 1, N, E / 2] for queries or keys


@dataclass(frozen=True)
class VideoBatch:
    """Video tokens of B clips, as a forward of the DiT is conditioned on them."""

    tokens: Tensor  # [B, J, P, V], padded to the longest clip
    frames: Tensor | None = None  # [B] effective frames of each clip; None where nothing is padded
    # [B] False for clips whose video is replaced by the null token, or [B, J] for single frames
    seen: Tensor | None = None
    offset: float = 0.0  # seconds from the first latent frame to the first effective frame
    # [B, J, tokens a frame after pooling] False for single tokens that are not attended to
    kept: Tensor | None = None


@dataclass(frozen=True)
class VideoCondition:
    """What the layers attend to during one forward (and its backward): their slot gets only x."""

    tokens: Tensor  # [B, K, V], standardised
    token_rotation: Rotation  # of keys
    mask: Tensor | None  # [B, K] True where there is a token; None: everywhere
    null: Tensor  # [V], the token of the second half of a batch doubled by classifier-free guidance
    n_latents: int
    latent_rotation: Rotation  # of queries

    def clips(self, size: int) -> int:
        """B, for a batch of B, or of 2 B where guidance appends the unconditional half."""
        clips = len(self.tokens)
        if size not in (clips, 2 * clips):
            raise ModelError(f"the bridge holds video of {clips} clips, the DiT runs {size}")
        return clips


def rotation(positions: Tensor, width: int) -> Rotation:
    """What rotary position embedding turns heads of a width E by, at positions [B or 1, N]."""
    half = width // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    angles = positions.float()[:, None, :, None] * 10000.0 ** (-steps / half)  # [B, 1, N, E / 2]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotary position embedding of x [B, H, N, E]; halves of a head are rotated together."""
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _attended(kept: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens [B, K] are attended to: all there are of a clip of which none would be left."""
    there = torch.ones_like(kept) if mask is None else mask
    left = kept & there
    return torch.where(left.any(1, keepdim=True), left, there)


class Adapter(nn.Module):
    """Two-layer MLP with GELU and residual addition, before keys and values are formed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, K, V] -> [B, K, V]."""
        return tokens + self.down(F.gelu(self.up(tokens)))


class LearnedPool(nn.Module):
    """Learned pooling of an effective frame: queries attend to its cells (the paper's future work).

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
        #: Keys, values and the null token's output, which all steps of a sampling share.
        self.cached: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def _peak(self) -> None:
        """Start attention as a peak at equal times: q and k differ by little but rotation."""
        inner = self.to_q.out_features
        for linear in (self.to_q, self.to_kv):  # of both the first rows: keys come before values
            linear.weight[:inner].mul_(0.3)
            linear.bias[:inner].fill_(1.5)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, H * E] -> [B, H, N, E]."""
        return x.unflatten(-1, (self.settings.heads, self.settings.head_dim)).transpose(1, 2)

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Video tokens [..., V] -> keys and values, each [..., H * E]."""
        k, v = self.to_kv(self.video_norm(self.adapter(tokens))).chunk(2, dim=-1)
        return k, v

    def _keys_values(self, condition: VideoCondition, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, H, K, E]."""
        k, v = self._project(condition.tokens.to(dtype))
        return rotate(self._heads(k), condition.token_rotation), self._heads(v)

    def _without_video(self, condition: VideoCondition, dtype: torch.dtype) -> Tensor:
        """Output [D] where there is no video: all values are the null token's, whatever attends."""
        return self.to_out(self._project(condition.null.to(dtype))[1])

    @torch.no_grad()
    def cache(self) -> None:
        """Compute once what all steps of a sampling share; dropped with the condition."""
        assert self.condition is not None
        condition, dtype = self.condition, self.to_kv.weight.dtype
        k, v = self._keys_values(condition, dtype)
        self.cached = k, v, self._without_video(condition, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """DiT sequence [B or 2 B, Q, D] -> what video adds to it; zero on prepended positions."""
        condition = self.condition
        if condition is None:
            return torch.zeros_like(x)
        clips, prefix = condition.clips(len(x)), x.shape[1] - condition.n_latents
        k, v = self.cached[:2] if self.cached else self._keys_values(condition, x.dtype)
        q = rotate(self._heads(self.to_q(self.norm(x[:clips, prefix:]))), condition.latent_rotation)
        mask = None if condition.mask is None else condition.mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, H, L, E]
        added = F.pad(self.to_out(out.transpose(1, 2).flatten(2)), (0, 0, prefix, 0))
        if clips == len(x):
            return added
        nothing = self.cached[2] if self.cached else self._without_video(condition, x.dtype)
        rest = F.pad(nothing.expand(1, condition.n_latents, -1), (0, 0, prefix, 0))  # [1, Q, D]
        return torch.cat([added, rest.expand_as(added)])


class Bridge(nn.Module):
    """All layers of the bridge, the null token, and the scale of the video features in training."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, dim: int, depth: int, frame: FrameShape, settings: BridgeSettings, rates: Rates
    ) -> None:
        """For a DiT of width D = `dim` and `depth` blocks, and tokens [P, V] a frame."""
        super().__init__()
        video_dim = frame[1]
        self.settings = settings
        self.latent_rate, self.token_rate = rates
        self.layers = nn.ModuleList(BridgeLayer(dim, video_dim, settings) for _ in range(depth))
        self.null = nn.Parameter(torch.zeros(video_dim), requires_grad=settings.null == "learned")
        self.cells = nn.Parameter(torch.randn(frame) * 0.1) if settings.cell_embedding else None
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
        free = sum(block.conformer is None for block in blocks)
        if not len(blocks) == free == len(self.layers):
            raise ModelError(
                f"the bridge has {len(self.layers)} layers for {len(blocks)} blocks "
                "with a free slot each"
            )
        for block, layer in zip(blocks, self.blocks, strict=True):
            block.conformer, block.conformer_scale = layer, nn.Identity()

    def remove(self, dit: Any) -> None:
        """Take the layers out again: the DiT is the bare backbone's."""
        for block in dit.transformer.layers:
            del block.conformer_scale
            block.conformer = None

    def tokens_attended(self, cells: int) -> int:
        """Tokens that layers attend to of an effective frame of so many."""
        return cells if self.pool is None else self.settings.pool_queries

    @torch.no_grad()
    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Mean and deviation [V] of video tokens, by which they are standardised."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-6))

    def _rotations(
        self, shape: torch.Size, n_latents: int, offset: float
    ) -> tuple[Rotation, Rotation]:
        """RoPE of video tokens [B, J, P, V], and of latents [L]: by seconds, or by their index."""
        _, frames, cells, _ = shape
        device = self.null.device
        video = torch.arange(frames, device=device, dtype=torch.float32) + offset * self.token_rate
        audio = torch.arange(n_latents, device=device, dtype=torch.float32)
        if self.settings.rope_positions == "seconds":
            video = (video + 0.5) / self.token_rate * self.settings.rope_rate
            audio = (audio + 0.5) / self.latent_rate * self.settings.rope_rate
        width = self.settings.head_dim
        return rotation(video.repeat_interleave(cells)[None], width), rotation(audio[None], width)

    def _condition(self, video: VideoBatch, n_latents: int) -> VideoCondition:
        tokens = (video.tokens.float() - self.mean) / self.std
        tokens = tokens if self.cells is None else tokens + self.cells
        tokens = tokens if self.pool is None else self.pool(tokens)
        _, count, cells, _ = tokens.shape
        if video.seen is not None:
            tokens = torch.where(video.seen.view(len(tokens), -1, 1, 1), tokens, self.null)
        mask = None
        # asked once here and not in every layer, because it waits for the device
        if video.frames is not None and bool((video.frames < count).any()):
            mask = torch.arange(count, device=tokens.device) < video.frames[:, None]
            mask = mask.repeat_interleave(cells, dim=1)
        if video.kept is not None:
            mask = _attended(video.kept.flatten(1), mask)
        by_token, by_latent = self._rotations(tokens.shape, n_latents, video.offset)
        return VideoCondition(tokens.flatten(1, 2), by_token, mask, self.null, n_latents, by_latent)

    @contextmanager
    def conditioned_on(
        self, video: VideoBatch, n_latents: int, cache: bool = False
    ) -> Generator[None]:
        """Let the layers attend to a video until the block ends (include backward in it).

        The layers hold one condition at a time: a second thread waits until the first has left.

        Args:
            video: tokens of as many clips as the DiT will run.
            n_latents: latent frames L of the DiT's sequence.
            cache: compute keys and values once for all forwards in the block; for sampling.
        """
        condition = self._condition(video, n_latents)
        with self._lock:
            try:
                for layer in self.blocks:
                    layer.condition = condition
                    if cache:
                        layer.cache()
                yield
            finally:
                for layer in self.blocks:
                    layer.condition = layer.cached = None
