"""The bridge is the paper's.

One trainable layer a block, in the right place, and nothing else changes.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch, rotate, rotation
from model.foley import build_bridge
from model.presets.preset import ModelError, Preset
from tests.model.velocity import FRAMES, LATENTS, conditioning, feature_batch, velocity


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_untrained_bridge_changes_no_bit(
    backbone: Backbone,
    preset: Preset,
    noisy: tuple[Tensor, Tensor],
    tokens: Tensor,
    cfg: float,
    checkpointing: bool,
) -> None:
    bare = velocity(backbone, noisy, cfg_scale=cfg, use_checkpointing=checkpointing)
    inserted = build_bridge(backbone)
    inserted.insert(backbone.dit)
    with inserted.conditioned_on(VideoBatch(tokens), LATENTS):
        bridged = velocity(backbone, noisy, cfg_scale=cfg, use_checkpointing=checkpointing)
    assert torch.equal(bare, bridged)


def test_removing_a_bridge_restores_the_backbone(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        bridged = velocity(backbone, noisy)
    bridge.remove(backbone.dit)
    fresh = Backbone.from_pretrained(backbone.preset)
    assert torch.equal(velocity(backbone, noisy), velocity(fresh, noisy))
    assert not torch.equal(velocity(backbone, noisy), bridged)
    assert set(backbone.state_dict()) == set(fresh.state_dict())


def test_video_attention_runs_after_text_attention_and_before_the_feed_forward(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    calls: list[str] = []
    block = backbone.dit.transformer.layers[1]
    for name in ("self_attn", "cross_attn", "conformer", "ff"):
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        velocity(backbone, noisy)
    assert calls == ["self_attn", "cross_attn", "conformer", "ff"]


def test_every_block_has_its_own_parameters(backbone: Backbone, bridge: Bridge) -> None:
    layers = [block.conformer for block in backbone.dit.transformer.layers]
    assert len(layers) == len(bridge.layers) == backbone.dit.transformer.depth
    pointers = [parameter.data_ptr() for layer in layers for parameter in layer.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_order_of_video_tokens_matters(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    swapped = tokens.clone()
    swapped[:, [3, 20]] = tokens[:, [20, 3]]
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        ordered = velocity(backbone, noisy)
    with bridge.conditioned_on(VideoBatch(swapped), LATENTS):
        assert not torch.allclose(velocity(backbone, noisy), ordered, atol=1e-4)


def test_guidance_sets_video_against_the_null_token(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    nobody = torch.zeros(2, dtype=torch.bool)
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        guided = velocity(backbone, noisy, cfg_scale=3.0)
        conditional = velocity(backbone, noisy)
    without_text = conditioning(backbone)
    without_text["cross_attn_cond"] = torch.zeros_like(without_text["cross_attn_cond"])
    with bridge.conditioned_on(VideoBatch(tokens, seen=nobody), LATENTS), torch.no_grad():
        unconditional = backbone(*noisy, **without_text)
    expected = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, atol=2e-4, rtol=1e-3)


def test_outside_the_guidance_interval_the_batch_is_not_doubled(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        never = velocity(backbone, noisy, cfg_scale=3.0, cfg_interval=(2.0, 3.0))
        assert torch.equal(never, velocity(backbone, noisy))


def test_padding_of_a_shorter_clip_is_not_seen(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    frames = torch.tensor([FRAMES, 10])
    other = tokens.clone()
    other[1, 10:] = 7.0
    with bridge.conditioned_on(VideoBatch(tokens, frames=frames), LATENTS):
        first = velocity(backbone, noisy)
    with bridge.conditioned_on(VideoBatch(other, frames=frames), LATENTS):
        assert torch.equal(velocity(backbone, noisy), first)
    with bridge.conditioned_on(VideoBatch(other), LATENTS):
        assert not torch.allclose(velocity(backbone, noisy)[1], first[1], atol=1e-4)


def test_sampling_cache_changes_nothing(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        plain = [velocity(backbone, noisy, cfg_scale=cfg) for cfg in (1.0, 3.0)]
    bridge.requires_grad_(True)
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS, cache=True):
        cached = [velocity(backbone, noisy, cfg_scale=cfg) for cfg in (1.0, 3.0, 1.0, 3.0)]
        kept = [tensor for layer in bridge.blocks for tensor in layer.cached or ()]
    assert all(torch.equal(a, b) for a, b in zip(plain + plain, cached, strict=True))
    assert not any(tensor.requires_grad for tensor in kept)  # which would keep what made them
    assert len(kept) == 3 * len(bridge.blocks)


@pytest.mark.slow
def test_compiled_blocks_are_one_graph_that_gives_the_same(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    """Captured and differentiated as torch.compile does it.

    Kernels are made on GPUs, where they may pay.
    """
    bridge.requires_grad_(True)
    inputs = conditioning(backbone)

    def gradients(checkpointing: bool) -> list[Tensor]:
        with bridge.conditioned_on(VideoBatch(tokens, frames=torch.tensor([FRAMES, 10])), LATENTS):
            backbone(*noisy, use_checkpointing=checkpointing, **inputs).square().mean().backward()
        found = [p.grad.clone() for p in bridge.parameters() if p.grad is not None]
        bridge.zero_grad()
        return found

    def sampled() -> Tensor:
        with bridge.conditioned_on(VideoBatch(tokens), LATENTS, cache=True):
            return velocity(backbone, noisy, cfg_scale=3.0)

    plain, plain_gradients = sampled(), gradients(checkpointing=False)
    keys = set(backbone.state_dict())
    torch.compiler.reset()
    counters.clear()
    backbone.compile_blocks("aot_eager")
    assert torch.equal(sampled(), plain)
    assert (counters["stats"]["unique_graphs"], dict(counters["graph_break"])) == (1, {})
    for checkpointing in (False, True):
        torch.testing.assert_close(gradients(checkpointing), plain_gradients)
    assert not counters["graph_break"]
    assert set(backbone.state_dict()) == keys


def test_a_taken_slot_and_a_wrong_depth_are_refused(
    backbone: Backbone, bridge: Bridge, preset: Preset
) -> None:
    with pytest.raises(ModelError, match="free slot"):
        build_bridge(backbone).insert(backbone.dit)
    shallow = Bridge(128, 2, (1, preset.video.width), preset.bridge, (25.0, 8.0))
    bridge.remove(backbone.dit)
    with pytest.raises(ModelError, match="2 layers for 4 blocks"):
        shallow.insert(backbone.dit)


def test_a_batch_that_is_not_the_videos_is_refused(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    with (
        bridge.conditioned_on(VideoBatch(tokens[:1].repeat(3, 1, 1, 1)), LATENTS),
        pytest.raises(ModelError, match="3 clips, the DiT runs 2"),
    ):
        velocity(backbone, noisy)


@given(offset=st.floats(-50, 50), a=st.floats(0, 300), b=st.floats(0, 300))
@settings(max_examples=50)
def test_rotation_keeps_length_and_depends_on_the_difference_of_positions(
    offset: float, a: float, b: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=generator, dtype=torch.float64).unbind(0)

    def at(x: Tensor, position: float) -> Tensor:
        return rotate(x, rotation(torch.tensor([[position]], dtype=torch.float64), x.shape[-1]))

    torch.testing.assert_close(at(q, a).norm(), q.norm(), rtol=1e-5, atol=1e-6)
    here, shifted = (at(q, a) * at(k, b)).sum(), (at(q, a + offset) * at(k, b + offset)).sum()
    torch.testing.assert_close(here, shifted, rtol=1e-3, atol=2e-3)


def test_only_the_bridge_gets_gradients(backbone: Backbone, preset: Preset, tokens: Tensor) -> None:
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    nn.init.normal_(bridge.blocks[0].to_out.weight)
    batch = feature_batch(backbone, tokens)
    with bridge.conditioned_on(VideoBatch(batch.video), LATENTS):
        inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
        backbone(batch.latent_mean, torch.tensor([0.2, 0.9]), **inputs).square().mean().backward()
    bridged = {id(parameter) for parameter in bridge.parameters()}
    graded = {id(p) for p in backbone.parameters() if p.grad is not None}
    assert graded
    assert graded <= bridged
