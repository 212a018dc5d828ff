"""Synchformer (Iashin et al., arXiv 2401.16423): by how much is a sound ahead of its picture?

Keys as in the published `synchformer_state_dict.pth`. The audio half is transformers' own AST;
inputs and the two windows follow the benchmark (av-benchmark, extraction and evaluate.py).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from model.metrics.metrics import OFFSETS
from model.networks.base import Array, Embedded, EvaluationNetwork, padded, to_numpy
from model.networks.motionformer import SEGMENT, MotionFormer, Pooling
from model.types import Audio, Frames, Times

FPS = 25
STRIDE = 8  # pictures from one segment to the next
AUDIO_SEGMENT, AUDIO_STRIDE = 10240, 5120  # samples of the same time
MEL_FRAMES, MELS = 66, 128
MEAN, STD = -4.2677393, 4.5689974
# published keys of the audio half (an older transformers) -> today's
_RENAMED = (
    ("ast.encoder.layer.", "ast.layers."),
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


@cache
def _mel() -> torchaudio.transforms.MelSpectrogram:
    """Mel power; no part of the network, whose published keys do not have it."""
    return torchaudio.transforms.MelSpectrogram(
        16000, n_fft=1024, win_length=400, hop_length=160, n_mels=MELS
    )


class AudioHalf(nn.Module):
    """Mel segments -> one token for each of 6 times."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        # here, because it takes seconds and the class is asked for its revision alone
        from transformers import ASTConfig, ASTModel

        config = ASTConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
            intermediate_size=4 * width, max_length=MEL_FRAMES, num_mel_bins=MELS,
        )  # fmt: skip
        self.ast = ASTModel(config)
        self.freq_attn_agg = Pooling(width, heads)

    def forward(self, mels: Tensor) -> Tensor:
        """Segments [N, 66, 128] -> [N, 6, D]."""
        tokens = self.ast(mels).last_hidden_state[:, 2:]  # without class and distillation token
        grid = tokens.unflatten(1, ((MELS - 16) // 10 + 1, -1)).transpose(1, 2)  # [N, 6, mels, D]
        return self.freq_attn_agg.pool(grid.flatten(0, 1)).unflatten(0, (len(mels), -1))


class SelfAttention(nn.Module):
    """Attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        layers = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Positions(nn.Module):
    """A learned vector for every place in the sequence."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(torch.randn(1, length, width) * 0.02)


class SyncTransformer(nn.Module):
    """Classifies the offset between the tokens of both halves, of 21."""

    def __init__(self, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.OFF_tok = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.MOD_tok = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_emb_cfg = Positions(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.ln_f = nn.LayerNorm(width)
        self.off_head = nn.Linear(width, len(OFFSETS))

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Tokens [B, Nv, D] and [B, Na, D] -> logits [B, 21]."""
        off, mod = (t.expand(len(video), -1, -1) for t in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([off, self.vis_in_lnorm(video), mod, self.aud_in_lnorm(audio)], 1)
        return self.off_head(self.ln_f(self.blocks(x + self.pos_emb_cfg.pos_emb))[:, 0])


class Synchformer(EvaluationNetwork):
    """Offset between sound and picture on a grid of 21 steps in -2..2 s: DeSync."""

    name = "synchformer"
    sample_rate = 16000
    crop: ClassVar[bool] = True  # it is given the centre square

    def __init__(
        self, width: int = 768, depth: int = 12, heads: int = 12, size: int = 224,
        segments: int = 14, sync_depth: int = 3, sync_heads: int = 8,
    ) -> None:  # fmt: skip
        """`size` is the side of a picture; a window is `segments`, read at once by the transformer.

        `width`, `depth` and `heads` are of both halves, the last two arguments of the transformer.
        """
        super().__init__()
        self.size, self.segments = size, segments
        self.vfeat_extractor = MotionFormer(width, depth, heads, size)
        self.afeat_extractor = AudioHalf(width, depth, heads)
        self.vproj, self.aproj = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer = SyncTransformer(width, sync_depth, sync_heads, 2 + segments * (8 + 6))

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights with the audio half's keys as today's transformers has them."""
        renamed: dict[str, Tensor] = {}
        for key, value in weights.items():
            if key.startswith("afeat_extractor.ast."):
                for old, new in _RENAMED:
                    key = key.replace(old, new)  # noqa: PLW2901
            renamed[key] = value
        return renamed

    def times(self, seconds: float) -> Times:
        """Times (s) of the pictures: 25 a second, each in the middle of its slot."""
        return (np.arange(int(seconds * FPS + 1e-6)) + 0.5) / FPS

    def prepare_frames(self, frames: Frames) -> Tensor:
        """RGB pictures [T, size, size, 3] -> segments [S, 3, 16, size, size], -1..1."""
        if frames.shape[1:3] != (self.size, self.size) or len(frames) < self.window_frames:
            raise ValueError(
                f"at least {self.window_frames} pictures of side {self.size} are needed, "
                f"not {frames.shape}"
            )
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        return pixels.unfold(0, SEGMENT, STRIDE).permute(0, 1, 4, 2, 3)

    def prepare(self, audio: Audio) -> Tensor:
        """Mono audio [S] -> log mels of its segments [segments, 66, 128], normalised."""
        least = AUDIO_SEGMENT + (self.segments - 1) * AUDIO_STRIDE
        segments = padded(audio, least).unfold(0, AUDIO_SEGMENT, AUDIO_STRIDE)
        logs = (_mel()(segments) + 1e-6).log()  # [S, 128, 65]
        logs = F.pad(logs, (0, MEL_FRAMES - logs.shape[-1]))
        return ((logs - MEAN) / (2 * STD)).transpose(1, 2)

    @property
    def window_frames(self) -> int:
        """Pictures in a window."""
        return SEGMENT + (self.segments - 1) * STRIDE

    def forward(self, prepared: Tensor) -> tuple[Tensor, None]:
        """Mel segments [B, S, 66, 128] -> tokens [B, S * 6, D]."""
        tokens = self.afeat_extractor(prepared.flatten(0, 1))  # [B * S, 6, D]
        return tokens.unflatten(0, prepared.shape[:2]).flatten(1, 2), None

    @torch.inference_mode()
    def watch(self, clips: Sequence[Frames]) -> list[Embedded]:
        """Pictures of clips at `times` -> tokens [S * 8, D] each."""
        seen: list[Embedded] = []
        for frames in clips:
            segments = self.prepare_frames(frames)
            parts = [self.vfeat_extractor(part.to(self.device)) for part in segments.split(8)]
            seen.append(Embedded(to_numpy(torch.cat(parts).flatten(0, 1))))
        return seen

    @torch.inference_mode()
    def offset_logits(self, video: Array, audio: Array) -> Array:
        """How late the sounds of B clips are, in their first and in their last window.

        Args:
            video: Tokens of `watch` [B, S * 8, D].
            audio: Tokens of `hear` [B, S' * 6, D].

        Returns:
            Logits of the 21 offsets [B, 2, 21].

        Raises:
            ValueError: The clips are shorter than a window.
        """
        vis, aud = torch.from_numpy(video).to(self.device), torch.from_numpy(audio).to(self.device)
        count, window = min(vis.shape[1] // 8, aud.shape[1] // 6), self.segments
        if count < window:
            raise ValueError(f"{window} segments are needed, not {count}: the clips are too short")
        logits = [
            self.compare(vis[:, i * 8 : (i + window) * 8], aud[:, i * 6 : (i + window) * 6])
            for i in (0, count - window)
        ]
        return to_numpy(torch.stack(logits, 1))

    def compare(self, video: Tensor, audio: Tensor) -> Tensor:
        """Tokens of a window [B, segments * 8, D] and [B, segments * 6, D] -> logits [B, 21]."""
        return self.transformer(self.vproj(video), self.aproj(audio))
