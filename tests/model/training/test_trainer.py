"""Training touches the bridge alone; stopping it or dividing it changes none of its weights."""

from __future__ import annotations

import io
import math
import os
import signal
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.foley import build_bridge
from model.presets.preset import Preset
from model.training.divergence import FEWEST, PATIENCE, DivergedError
from model.training.feature_batch import FeatureBatch
from model.training.trainer import NOISE_LEVELS, Trainer

LATENTS, FRAMES = 50, 16


def make_batch(backbone: Backbone, seed: int, size: int = 2) -> FeatureBatch:
    generator = torch.Generator().manual_seed(seed)
    preset = backbone.preset
    return FeatureBatch(
        video=torch.randn(size, FRAMES, 1, preset.video.width, generator=generator),
        frames=torch.full((size,), FRAMES),
        latent_mean=torch.randn(size, preset.latent_channels, LATENTS, generator=generator),
        latent_scale=torch.full((size, preset.latent_channels, LATENTS), 0.1),
        latents=torch.full((size,), LATENTS),
        text=backbone.encode_text(["metal"] * size),
        seconds=[2.0] * size,
    )


def make_trainer(preset: Preset, **changes: Any) -> Trainer:
    backbone = Backbone.from_pretrained(preset)
    torch.manual_seed(0)
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    settings = {"steps": 20, "batch_size": 2, "warmup_steps": 2, **changes}
    return Trainer(backbone, bridge, preset.train.model_copy(update=settings))


def advance(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.train_step(
            [make_batch(trainer.backbone, 100 * trainer.step + number) for number in trainer.mine]
        )
    return trainer


def test_a_training_begun_with_another_s_state_takes_the_step_that_one_would(
    preset: Preset,
) -> None:
    """Weights, moments and average go over; step, rate and decay stay the new training's own."""
    first = advance(make_trainer(preset, ema_decay=0.9, weight_decay=0.5), 3)
    second = make_trainer(preset, ema_decay=0.9, learning_rate=1e-4)
    second.begin_with(deepcopy(first.state_dict()))
    assert second.step == 0
    group = second.optimiser.param_groups[0]
    assert (group["weight_decay"], group["lr"]) == (preset.train.weight_decay, 1e-4)
    second.settings = first.settings  # the same rate and draws as the other's next step
    group["weight_decay"] = 0.5
    second.step, second._averaged = 3, 0
    advance(first, 1)
    advance(second, 1)
    assert weights(second.bridge) == weights(first.bridge)
    assert first.average
    assert second.average
    assert all(a.equal(b) for a, b in zip(first.average, second.average, strict=True))


def test_an_average_taken_over_stays_as_slow_as_it_was(preset: Preset) -> None:
    first = advance(make_trainer(preset, ema_decay=0.999), 6)
    second = make_trainer(preset, ema_decay=0.999)
    second.begin_with(deepcopy(first.state_dict()))
    assert first.average
    assert second.average
    before = [value.clone() for value in second.average]
    advance(second, 1)
    decay = (1 + 6) / (10 + 6)  # not (1 + 0) / (10 + 0)
    for old, new, raw in zip(before, second.average, second.parameters, strict=True):
        torch.testing.assert_close(new, old * decay + raw * (1 - decay), atol=1e-6, rtol=1e-5)


def digest(tensors: Mapping[str, Tensor]) -> str:
    return sha256(save({key: value.clone() for key, value in tensors.items()})).hexdigest()


def weights(bridge: Bridge) -> str:
    return digest(bridge.state_dict())


def test_training_changes_the_bridge_and_no_frozen_weight(preset: Preset) -> None:
    frozen = digest(Backbone.from_pretrained(preset).state_dict())
    trainer = make_trainer(preset)
    before = {name: value.clone() for name, value in trainer.bridge.state_dict().items()}
    advance(trainer, 3)
    changed = [
        name
        for name, value in trainer.bridge.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    assert (
        len(changed) >= len(trainer.parameters) - 1
    )  # the null token moves when a clip was dropped
    trainer.bridge.remove(trainer.backbone.dit)
    assert digest(trainer.backbone.state_dict()) == frozen
    assert all(parameter.grad is None for parameter in trainer.backbone.parameters())


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9}, {"micro_batches": 2, "schedule": "inverse"}, {"preference": 0.5}],
)
def test_a_stopped_training_goes_on_to_the_same_bits(
    preset: Preset, changes: dict[str, Any]
) -> None:
    whole = advance(make_trainer(preset, **changes), 4)
    kept = io.BytesIO()
    torch.save(advance(make_trainer(preset, **changes), 2).state_dict(), kept)
    kept.seek(0)
    resumed = make_trainer(preset, **changes)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    advance(resumed, 2)
    assert weights(resumed.bridge) == weights(whole.bridge)
    with whole.averaged(), resumed.averaged():
        assert weights(resumed.bridge) == weights(whole.bridge)


def test_micro_batches_add_up_to_the_mean_gradient_of_all(preset: Preset) -> None:
    trainer = make_trainer(preset, micro_batches=2, clip_norm=1e9)
    advance(trainer, 1)  # the output projection is zero before, and hides most gradients
    batches = [make_batch(trainer.backbone, number) for number in trainer.mine]
    apart: list[list[Tensor]] = []
    for number, batch in enumerate(batches):
        trainer._backward(batch, number, torch.zeros(NOISE_LEVELS, 2))
        apart.append([p.grad.clone() for p in trainer.parameters if p.grad is not None])
        trainer.optimiser.zero_grad()
    whole: list[Tensor] = []

    def keep(*_: object) -> None:
        whole.extend(p.grad.clone() for p in trainer.parameters if p.grad is not None)

    trainer.optimiser.register_step_pre_hook(keep)
    trainer.train_step(batches)
    for gradient, *parts in zip(whole, *apart, strict=True):
        torch.testing.assert_close(gradient, sum(parts))


def test_losses_are_told_apart_by_the_noise_of_their_clips(preset: Preset) -> None:
    """The target of loud clips is -sigma times the clip: the later, the larger the error."""
    trainer = make_trainer(preset)
    batch = make_batch(trainer.backbone, 0, 10)
    loud = replace(batch, latent_mean=30 * torch.ones_like(batch.latent_mean))
    progress = trainer.train_step([loud])
    assert [clips for _, clips in progress.levels] == [2] * 5
    assert sum(loss for loss, _ in progress.levels) / 10 == pytest.approx(progress.loss, rel=1e-5)
    means = [loss / clips for loss, clips in progress.levels]
    assert means == sorted(means)
    assert means[-1] > 3 * means[0]


def test_the_moving_average_is_of_the_weights_and_leaves_them_as_they_were(preset: Preset) -> None:
    trainer = make_trainer(preset, ema_decay=0.5)
    name = "layers.0.to_out.weight"
    seen = [trainer.bridge.state_dict()[name].clone()]
    average = seen[0]
    for step in range(3):
        advance(trainer, 1)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trainer.bridge.state_dict()[name]
    trained = weights(trainer.bridge)
    with trainer.averaged():
        torch.testing.assert_close(trainer.bridge.state_dict()[name], average)
    assert weights(trainer.bridge) == trained


def test_between_two_steps_weights_moments_and_average_are_all_that_is_held(preset: Preset) -> None:
    """At full size every copy of the bridge, and its gradients, are 0.76 GB."""
    trainer = advance(make_trainer(preset, ema_decay=0.5), 2)
    assert all(parameter.grad is None for parameter in trainer.parameters)
    assert trainer.average
    with trainer.averaged():
        for parameter, average in zip(trainer.parameters, trainer.average, strict=True):
            assert parameter.data_ptr() == average.data_ptr()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_any_weight_changes(
    preset: Preset, value: float
) -> None:
    trainer = advance(make_trainer(preset), 2)
    before = weights(trainer.bridge)
    bad = make_batch(trainer.backbone, 0)
    bad = replace(bad, latent_mean=bad.latent_mean.index_fill(0, torch.tensor([1]), value))
    with pytest.raises(DivergedError, match="step 3: the loss is") as error:
        trainer.train_step([bad])
    assert error.value.good == 1
    assert weights(trainer.bridge) == before


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_signal_while_weights_change_waits_until_they_have_changed(preset: Preset) -> None:
    trainer, undisturbed = (advance(make_trainer(preset, ema_decay=0.5), 1) for _ in range(2))
    trainer.optimiser.register_step_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        advance(trainer, 1)
    advance(undisturbed, 1)
    assert (trainer.step, trainer.latest) == (2, undisturbed.latest)
    with trainer.averaged(), undisturbed.averaged():
        assert weights(trainer.bridge) == weights(undisturbed.bridge)
    assert weights(trainer.bridge) == weights(undisturbed.bridge)


def test_loud_clips_in_most_batches_stop_nothing(preset: Preset) -> None:
    trainer = make_trainer(preset, steps=100)
    usual = advance(trainer, 1).train_step([make_batch(trainer.backbone, 0)]).loss
    loud = make_batch(trainer.backbone, 1)
    loud = replace(loud, latent_mean=loud.latent_mean * 30)
    for step in range(2 * PATIENCE):
        found = trainer.train_step([make_batch(trainer.backbone, step) if step % 3 == 0 else loud])
        assert step % 3 == 0 or found.loss > 100 * usual


def test_weights_that_went_wrong_stop_it_also_where_it_was_resumed(preset: Preset) -> None:
    trainer = advance(make_trainer(preset, steps=100), FEWEST)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.mul_(10)
    resumed = make_trainer(preset, steps=100)
    resumed.load_state_dict(advance(trainer, PATIENCE // 2).state_dict())
    with pytest.raises(DivergedError, match=f"step {FEWEST + PATIENCE}: the loss rose to") as error:
        advance(resumed, PATIENCE)
    assert (
        error.value.good == FEWEST - 1
    )  # the weights after the next step gave the first loss that was too high


def test_checkpointing_gives_the_same_weights(preset: Preset) -> None:
    plain = advance(make_trainer(preset), 2)
    thrifty = advance(make_trainer(preset, checkpointing=True), 2)
    for a, b in zip(plain.parameters, thrifty.parameters, strict=True):
        torch.testing.assert_close(a, b)


def test_a_preference_trains_its_own_weights_in_half_precision_too(preset: Preset) -> None:
    """Not those of the beginning, which the margin before is measured with."""
    settings = {"preference": 1.0, "learning_rate": 2e-2, "warmup_steps": 1, "text_drop": 0.0}
    losses: list[float] = []
    for precision in ("fp32", "bf16"):
        trainer = advance(make_trainer(preset, precision=precision, **settings), 4)
        assert trainer.latest
        losses.append(trainer.latest.loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_half_precision_keeps_the_trained_weights_whole(preset: Preset) -> None:
    start = make_trainer(preset)
    trainer = make_trainer(preset, precision="bf16")
    for mine, theirs in zip(trainer.parameters, start.parameters, strict=True):
        assert torch.equal(mine, theirs)
    advance(trainer, 2)
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    frozen = set(trainer.backbone.dit.parameters()) - set(trainer.parameters)
    assert {p.dtype for p in frozen if p.ndim > 1} == {torch.bfloat16}
    losses = trainer.validate([make_batch(trainer.backbone, 7)])
    assert vars(losses) == pytest.approx(
        vars(advance(start, 2).validate([make_batch(start.backbone, 7)])), rel=0.05
    )
