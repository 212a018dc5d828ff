"""What the paper leaves open of the bridge is a setting: pooling, norms, positions, its start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import build_bridge
from model.presets.preset import Preset
from tests.model.velocity import FRAMES, LATENTS, feature_batch, velocity


def with_bridge(preset: Preset, backbone: Backbone, **changes: Any) -> Bridge:
    changed = backbone.preset.model_copy(
        update={"bridge": preset.bridge.model_copy(update=changes)}
    )
    torch.manual_seed(0)
    backbone.preset = changed
    found = build_bridge(backbone)
    for layer in found.blocks:
        nn.init.normal_(layer.to_out.weight, std=0.2)
    return found


@torch.no_grad()
def seen_by(
    backbone: Backbone, bridge: Bridge, noisy: tuple[Tensor, Tensor], tokens: Tensor, **kwargs: Any
) -> Tensor:
    bridge.insert(backbone.dit)
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        found = velocity(backbone, noisy, **kwargs)
    bridge.remove(backbone.dit)
    return found


def test_learned_pooling_starts_as_the_mean_over_the_grid(
    backbone: Backbone, preset: Preset, noisy: tuple[Tensor, Tensor]
) -> None:
    grid = torch.randn(
        2, FRAMES, 16, preset.video.width, generator=torch.Generator().manual_seed(4)
    )
    learned = with_bridge(preset, backbone, pool_queries=1)
    plain = with_bridge(preset, backbone)
    plain.load_state_dict(
        {k: v for k, v in learned.state_dict().items() if not k.startswith("pool.")}
    )
    for cfg in (1.0, 3.0):
        pooled = seen_by(backbone, learned, noisy, grid, cfg_scale=cfg)
        mean = seen_by(backbone, plain, noisy, grid.mean(2, keepdim=True), cfg_scale=cfg)
        torch.testing.assert_close(pooled, mean, rtol=1e-2, atol=1e-2)


def test_learned_pooling_can_look_at_one_cell(
    backbone: Backbone, preset: Preset, noisy: tuple[Tensor, Tensor]
) -> None:
    learned = with_bridge(preset, backbone, pool_queries=1)
    assert learned.pool is not None
    grid = torch.randn(2, FRAMES, 4, preset.video.width, generator=torch.Generator().manual_seed(4))
    direction = torch.ones(preset.video.width)
    grid[:, :, 2] += 3 * direction
    learned.pool.queries.data[0] = 100 * direction
    shuffled = grid.clone()
    shuffled[:, :, :2] = grid[:, :, :2].flip(0)  # what is not looked at may change
    a, b = (seen_by(backbone, learned, noisy, g) for g in (grid, shuffled))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learned_pooling_gets_gradients(
    backbone: Backbone, preset: Preset, checkpointing: bool
) -> None:
    learned = with_bridge(preset, backbone, pool_queries=2)
    learned.insert(backbone.dit)
    batch = feature_batch(
        backbone,
        torch.randn(2, FRAMES, 4, preset.video.width, generator=torch.Generator().manual_seed(4)),
    )
    with learned.conditioned_on(VideoBatch(batch.video), LATENTS):
        inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
        t = torch.tensor([0.2, 0.9])
        backbone(
            batch.latent_mean, t, use_checkpointing=checkpointing, **inputs
        ).square().mean().backward()
    assert learned.pool is not None
    assert learned.pool.queries.grad is not None
    assert bool(learned.pool.queries.grad.any())


@pytest.mark.parametrize(
    "changes", [{"norm": "rms"}, {"null": "zero"}, {"rope_positions": "index"}]
)
def test_what_the_paper_leaves_open_can_be_set(
    backbone: Backbone,
    preset: Preset,
    noisy: tuple[Tensor, Tensor],
    tokens: Tensor,
    changes: dict[str, Any],
) -> None:
    plain = seen_by(backbone, with_bridge(preset, backbone), noisy, tokens)
    other = with_bridge(preset, backbone, **changes)
    found = seen_by(backbone, other, noisy, tokens)
    trainable = {name for name, parameter in other.named_parameters() if parameter.requires_grad}
    if changes == {"null": "zero"}:
        assert torch.equal(found, plain)  # with video to see, the null token plays no part
        assert "null" not in trainable
    else:
        assert not torch.allclose(found, plain)
        assert "null" in trainable


def test_without_zero_init_an_untrained_bridge_is_heard(
    backbone: Backbone, preset: Preset, noisy: tuple[Tensor, Tensor], tokens: Tensor
) -> None:
    bare = velocity(backbone, noisy)
    settings = preset.bridge.model_copy(update={"zero_init": False})
    backbone.preset = preset.model_copy(update={"bridge": settings})
    loud = build_bridge(backbone)
    assert not torch.allclose(seen_by(backbone, loud, noisy, tokens), bare)
