"""Keys and sizes of the published checkpoints, and small ones of the same layout."""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.base import EvaluationNetwork
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish

Layout = dict[str, tuple[int, ...]]


def linear(name: str, inner: int, outer: int) -> Layout:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def cnn14_layout(channels: list[int], features: int, classes: int) -> Layout:
    """Keys of Cnn14_16k_mAP=0.438.pth."""

    def batch_norm(name: str, width: int) -> Layout:
        return norm(name, width) | {
            f"{name}.running_mean": (width,), f"{name}.running_var": (width,),
            f"{name}.num_batches_tracked": (),
        }  # fmt: skip

    layout: Layout = {
        "spectrogram_extractor.stft.conv_real.weight": (257, 1, 512),
        "spectrogram_extractor.stft.conv_imag.weight": (257, 1, 512),
        "logmel_extractor.melW": (257, 64),
    } | batch_norm("bn0", 64)
    for i, (inner, outer) in enumerate(zip([1, *channels[:-1]], channels, strict=True), 1):
        block = f"conv_block{i}"
        layout |= {
            f"{block}.conv1.weight": (outer, inner, 3, 3),
            f"{block}.conv2.weight": (outer, outer, 3, 3),
        }
        layout |= batch_norm(f"{block}.bn1", outer) | batch_norm(f"{block}.bn2", outer)
    return layout | linear("fc1", channels[-1], features) | linear("fc_audioset", features, classes)


def passt_layout(width: int, depth: int, frames: int, classes: int) -> Layout:
    """Keys of passt-s-f128-p16-s10-ap.476-swa.pt."""
    layout: Layout = {
        "cls_token": (1, 1, width), "dist_token": (1, 1, width), "new_pos_embed": (1, 2, width),
        "freq_new_pos_embed": (1, width, 12, 1), "time_new_pos_embed": (1, width, 1, frames // 10),
        "patch_embed.proj.weight": (width, 1, 16, 16), "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        b = f"blocks.{i}"
        layout |= norm(f"{b}.norm1", width) | norm(f"{b}.norm2", width)
        layout |= linear(f"{b}.attn.qkv", width, 3 * width) | linear(f"{b}.attn.proj", width, width)
        layout |= linear(f"{b}.mlp.fc1", width, 4 * width) | linear(
            f"{b}.mlp.fc2", 4 * width, width
        )
    layout |= norm("norm", width) | norm("head.0", width)
    return layout | linear("head.1", width, classes) | linear("head_dist", width, classes)


def vggish_layout(channels: list[int], hidden: int, features: int) -> Layout:
    """Keys of vggish-10086976.pth."""
    a, b, c, d = channels
    layout: Layout = {}
    for i, (inner, outer) in {
        0: (1, a),
        3: (a, b),
        6: (b, c),
        8: (c, c),
        11: (c, d),
        13: (d, d),
    }.items():
        layout |= {f"features.{i}.weight": (outer, inner, 3, 3), f"features.{i}.bias": (outer,)}
    flat = linear("embeddings.0", d * 24, hidden) | linear("embeddings.2", hidden, hidden)
    return layout | flat | linear("embeddings.4", hidden, features)


def pooling_layout(name: str, width: int) -> Layout:
    return {
        f"{name}.cls_token": (1, 1, width),
        f"{name}.self_attn.in_proj_weight": (3 * width, width),
        f"{name}.self_attn.in_proj_bias": (3 * width,),
        **linear(f"{name}.self_attn.out_proj", width, width),
        **linear(f"{name}.linear1", width, 4 * width),
        **linear(f"{name}.linear2", 4 * width, width),
        **norm(f"{name}.norm1", width),
        **norm(f"{name}.norm2", width),
    }


def synchformer_layout(width: int, depth: int, size: int, segments: int, sync_depth: int) -> Layout:
    """Keys of synchformer_state_dict.pth."""
    v, a = "vfeat_extractor", "afeat_extractor"
    layout: Layout = {
        f"{v}.cls_token": (1, 1, width), f"{v}.pos_embed": (1, 1 + (size // 16) ** 2, width),
        f"{v}.temp_embed": (1, 8, width),
        f"{v}.patch_embed.proj.weight": (width, 3, 16, 16), f"{v}.patch_embed.proj.bias": (width,),
        f"{v}.patch_embed_3d.proj.weight": (width, 3, 2, 16, 16),
        f"{v}.patch_embed_3d.proj.bias": (width,), f"{a}.ast.embeddings.cls_token": (1, 1, width),
        f"{a}.ast.embeddings.distillation_token": (1, 1, width),
        f"{a}.ast.embeddings.position_embeddings": (1, 74, width),
        f"{a}.ast.embeddings.patch_embeddings.projection.weight": (width, 1, 16, 16),
        f"{a}.ast.embeddings.patch_embeddings.projection.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        b = f"{v}.blocks.{i}"
        for attention in ("attn", "timeattn"):
            layout |= linear(f"{b}.{attention}.qkv", width, 3 * width) | linear(
                f"{b}.{attention}.proj", width, width
            )
        layout |= linear(f"{b}.mlp.fc1", width, 4 * width) | linear(
            f"{b}.mlp.fc2", 4 * width, width
        )
        layout |= norm(f"{b}.norm1", width) | norm(f"{b}.norm2", width) | norm(f"{b}.norm3", width)
        b = f"{a}.ast.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            layout |= linear(f"{b}.attention.attention.{part}", width, width)
        layout |= linear(f"{b}.attention.output.dense", width, width)
        layout |= linear(f"{b}.intermediate.dense", width, 4 * width) | linear(
            f"{b}.output.dense", 4 * width, width
        )
        layout |= norm(f"{b}.layernorm_before", width) | norm(f"{b}.layernorm_after", width)
    layout |= norm(f"{v}.norm", width) | norm(f"{a}.ast.layernorm", width)
    layout |= pooling_layout(f"{v}.spatial_attn_agg", width) | pooling_layout(
        f"{a}.freq_attn_agg", width
    )
    layout |= linear("vproj", width, width) | linear("aproj", width, width)
    t = "transformer"
    layout |= {f"{t}.OFF_tok": (1, 1, width), f"{t}.MOD_tok": (1, 1, width)}
    layout |= {f"{t}.pos_emb_cfg.pos_emb": (1, 2 + 14 * segments, width)}
    for i in range(sync_depth):
        b = f"{t}.blocks.{i}"
        for part in ("key", "query", "value", "proj"):
            layout |= linear(f"{b}.attn.{part}", width, width)
        layout |= linear(f"{b}.mlp.0", width, 4 * width) | linear(f"{b}.mlp.2", 4 * width, width)
        layout |= norm(f"{b}.ln1", width) | norm(f"{b}.ln2", width)
    for name in ("vis_in_lnorm", "aud_in_lnorm", "ln_f"):
        layout |= norm(f"{t}.{name}", width)
    return layout | linear(f"{t}.off_head", width, 21)


PUBLISHED: dict[type[EvaluationNetwork], tuple[Layout, int]] = {
    # parameters as published networks have them, those of Cnn14's fixed spectrogram (279,616)
    # included
    Cnn14: (cnn14_layout([64, 128, 256, 512, 1024, 2048], 2048, 527), 80_753_615 + 279_616),
    Passt: (passt_layout(768, 12, 998, 527), 86_153_758),
    VGGish: (vggish_layout([64, 128, 256, 512], 4096, 128), 72_141_184),
    Synchformer: (synchformer_layout(768, 12, 224, 14, 3), 237_460_245),
}
SMALL: dict[type[EvaluationNetwork], Layout] = {
    Cnn14: cnn14_layout([8, 16, 32, 48, 64, 96], 64, 4),
    Passt: passt_layout(48, 2, 400, 4),
    VGGish: vggish_layout([8, 16, 24, 32], 64, 32),
    Synchformer: synchformer_layout(64, 2, 64, 11, 2),
}


def random_checkpoint(layout: Layout) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in layout.items()}
    made |= {k: v.abs() + 0.5 for k, v in made.items() if k.endswith("running_var")}
    return made | {k: torch.tensor(7) for k in made if k.endswith("num_batches_tracked")}
