"""The video half of Synchformer: a ViT whose attention is divided into time and space.

Bertasius et al., arXiv 2102.05095; keys as published (v-iashin/Synchformer,
model/modules/feat_extractors/visual).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEGMENT = 16  # pictures that are read at once
FRAMES_A_TOKEN = 2  # of them that become one token in time
_PATCH = 16  # pixels, the side of what becomes one token in space


class DividedAttention(nn.Module):
    """Attention over time at each place, or over places at each time, and of the class token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, times: int, *, over_time: bool) -> Tensor:
        """[B, 1 + times * places, D] -> the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv  # each [B, heads, N, d]
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)

        def grouped(t: Tensor) -> Tensor:
            laid = t[:, :, 1:].unflatten(2, (times, -1))  # [B, heads, times, places, d]
            return laid.transpose(2, 3) if over_time else laid

        def with_class(t: Tensor) -> Tensor:
            groups = grouped(t)
            return torch.cat([t[:, :, None, :1].expand(-1, -1, groups.shape[2], -1, -1), groups], 3)

        rest = F.scaled_dot_product_attention(grouped(q), with_class(k), with_class(v))
        rest = (rest.transpose(2, 3) if over_time else rest).flatten(2, 3)
        return self.proj(torch.cat([first, rest], 2).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Time attention, then space attention, then an MLP, each on what it adds to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = DividedAttention(width, heads)
        self.timeattn = DividedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.norm3 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, times: int) -> Tensor:
        """[B, 1 + times * places, D] -> the same shape."""
        x = x + self.timeattn(self.norm3(x), times, over_time=True)
        x = x + self.attn(self.norm1(x), times, over_time=False)
        return x + self.mlp(self.norm2(x))


class Pooling(nn.TransformerEncoderLayer):
    """One transformer layer whose class token stands for the tokens that it read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(
            width, heads, 4 * width, dropout=0.0, activation=F.gelu, layer_norm_eps=1e-6,
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def pool(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        return self(torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1))[:, 0]


class PatchEmbedding(nn.Module):
    """A convolution called `proj`, as the published keys have it."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.proj = projection


class MotionFormer(nn.Module):
    """Segments of 16 pictures -> one token for every two pictures of each."""

    def __init__(self, width: int, depth: int, heads: int, size: int) -> None:
        super().__init__()
        places, self.times = (size // _PATCH) ** 2, SEGMENT // FRAMES_A_TOKEN
        # two-dimensional patches: in the published file, used by no one
        self.patch_embed = PatchEmbedding(nn.Conv2d(3, width, _PATCH, _PATCH))
        block = (FRAMES_A_TOKEN, _PATCH, _PATCH)
        self.patch_embed_3d = PatchEmbedding(nn.Conv3d(3, width, block, block))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, places + 1, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, self.times, width))
        for parameter in (self.cls_token, self.pos_embed, self.temp_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.spatial_attn_agg = Pooling(width, heads)

    def forward(self, pictures: Tensor) -> Tensor:
        """Segments [N, 3, 16, H, W] -> [N, 8, D]."""
        x = self.patch_embed_3d.proj(pictures).flatten(3).permute(0, 2, 3, 1)
        # tokens [N, times, places, D]
        x = (x + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]).flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x, self.times)
        x = self.norm(x[:, 1:]).unflatten(1, (self.times, -1))  # [N, times, places, D]
        return self.spatial_attn_agg.pool(x.flatten(0, 1)).unflatten(0, (-1, self.times))
