"""What a micro-batch of training costs, found out without weights, device or data.

The DiT and the bridge are built on PyTorch's `meta` device, whose tensors have shapes and no
values, and run forward and backward once: FLOPs and what is kept for the backward are counted.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from model.bridge import Bridge, VideoBatch
from model.foley import build_bridge
from model.presets.preset import Preset
from model.weights.lean_imports import import_stable_audio_tools


@dataclass(frozen=True)
class MicroBatchCost:
    """Of one micro-batch, forward and backward."""

    frozen: int  # weights of the DiT
    trained: int  # weights of the bridge
    flops: int  # floating point operations; a multiplication with an addition counts as two
    activations: int  # bytes that are kept for the backward


def micro_batch_cost(preset: Preset, latents: int, tokens: tuple[int, int]) -> MicroBatchCost:
    """The cost at clips of so many latent frames, with video of J frames of P tokens."""
    settings, config = preset.train, preset.backbone_config["model"]
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    size = settings.batch_size
    with torch.device("meta"):
        dit, bridge = _networks(preset, config["diffusion"]["config"], dtype)
        clean = torch.zeros(size, preset.latent_channels, latents, dtype=dtype)
        video = torch.zeros(size, *tokens, preset.video.width, dtype=dtype)
        inputs = _conditioning(config, size, dtype)
        times, seen = torch.zeros(size, dtype=dtype), torch.ones(size, dtype=torch.bool)
    weights = {_memory(p) for p in (*dit.parameters(), *bridge.parameters())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_memory(tensor)] = tensor
        return tensor

    attention = _FusedAttention()
    with (
        attention,
        FlopCounterMode(display=False) as counter,
        saved_tensors_hooks(keep, lambda tensor: tensor),
        bridge.conditioned_on(VideoBatch(video, seen=seen), latents),
    ):
        out = dit(clean, times, **inputs, cfg_dropout_prob=0.1, use_checkpointing=False)
        forward = counter.get_total_flops() + attention.flops // 3
        out.square().mean().backward()
    held = {k: tensor.untyped_storage().nbytes() for k, tensor in kept.items() if k not in weights}
    activations = sum(held.values())
    flops = counter.get_total_flops() + attention.flops
    if settings.checkpointing:  # each block's input is kept, and one block's own at a time
        depth, width = dit.transformer.depth, dit.transformer.dim
        activations = activations // depth + depth * size * latents * width * dtype.itemsize
        flops = flops * 3 // 2  # nearly all is frozen: one forward, one backward, and one again
    if settings.preference:  # a false sound beside each, and both as before training, forward only
        activations, flops = 2 * activations, 2 * (flops + forward)
    trained = sum(p.numel() for p in bridge.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in dit.parameters() if not p.requires_grad)
    return MicroBatchCost(frozen, trained, flops, activations)


class _FusedAttention(TorchFunctionMode):
    """Attention as devices compute it: its matrix of weights is never kept.

    On shapes alone PyTorch would choose the plain formula, which keeps it.
    """

    flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args
        # two products of matrices forward, four backward
        self.flops += 6 * 2 * q.shape[:-1].numel() * k.shape[-2] * q.shape[-1]
        return _Attended.apply(q, k, v)


class _Attended(Function):
    """The shapes of attention and of its gradients; queries, keys, values and result are kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _networks(preset: Preset, config: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Bridge]:
    """The frozen DiT with the bridge in it."""
    import_stable_audio_tools()
    from stable_audio_tools.models.dit import DiffusionTransformer

    dit: object = DiffusionTransformer(**config)
    dit.to(dtype).requires_grad_(False).eval()
    backbone = SimpleNamespace(preset=preset, dit=dit)
    bridge = build_bridge(cast("Any", backbone)).to(dtype)
    bridge.insert(dit)
    return dit, bridge


def _conditioning(config: dict[str, Any], size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the DiT attends to beside the video: text, and a token of each number."""
    width = config["conditioning"]["cond_dim"]
    entries = {entry["id"]: entry for entry in config["conditioning"]["configs"]}
    names = config["diffusion"]["cross_attention_cond_ids"]
    tokens = sum(entries[name]["config"].get("max_length", 1) for name in names)
    wide = config["diffusion"]["config"]["global_cond_dim"]
    return {
        "cross_attn_cond": torch.zeros(size, tokens, width, dtype=dtype),
        "global_embed": torch.zeros(size, wide, dtype=dtype),
    }


def _memory(tensor: Tensor) -> int:
    """Where a tensor's values would be: views share it."""
    return StorageWeakRef(tensor.untyped_storage()).cdata
