"""A training step against a plain loop written from the paper, on clips of different lengths."""

from __future__ import annotations

import math

import pytest
import torch

from model.bridge import VideoBatch
from model.presets.preset import ModelError, Preset
from model.presets.settings import WindowSettings
from model.sampling.canvas import Canvas
from model.training.feature_batch import FeatureBatch, cut_to_fit
from model.training.validation import _video_of_others
from tests.model.training.reference import HELD_OUT, loss_of, make_batch, pair


@pytest.mark.parametrize("preference", [0.0, 0.5])
@pytest.mark.parametrize("canvas_seconds", [None, 3.0])
def test_steps_are_those_of_the_paper(
    preset: Preset, canvas_seconds: float | None, preference: float
) -> None:
    """And, where there is a preference, those of Diffusion-DPO beside them."""
    window = WindowSettings(seconds=2.0, overlap=1.0, canvas_seconds=canvas_seconds)
    preset = preset.model_copy(update={"window": window})
    trainer, reference = pair(preset, preference=preference, preference_beta=3.0)
    dropped = 0
    for step in range(4):
        shapes = [(0, 1, 2, 3), (3, 2, 1, 0)] if step % 2 else [(1, 2, 3, 0), (2, 0, 1, 3)]
        batches = [
            make_batch(trainer.backbone, 10 * step + n, clips) for n, clips in enumerate(shapes)
        ]
        fitting = [cut_to_fit(batch, Canvas.of(preset)) for batch in batches]
        progress = trainer.train_step(fitting)
        loss, norm = reference.take(batches)
        assert progress.loss == pytest.approx(loss, rel=1e-5)
        assert progress.grad_norm == pytest.approx(norm, rel=1e-4)
        assert norm > trainer.settings.clip_norm  # it is clipped, or the test shows nothing of it
        dropped += sum(w.grad is not None for w in (reference.bridge.null,))
    assert dropped
    assert reference.bare
    assert bool(preference) == bool(reference.others) == bool(reference.shifted)
    for mine, theirs in zip(trainer.parameters, reference.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert trainer.average is not None
    for mine, theirs in zip(trainer.average, reference.average, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_validation_is_of_the_average_and_a_batch_of_one_borrows_another_clips_video(
    preset: Preset,
) -> None:
    trainer, reference = pair(preset, text_drop=0.0)
    canvas = Canvas.of(preset)
    batches = [cut_to_fit(make_batch(trainer.backbone, n), canvas) for n in range(2)]
    trainer.train_step(batches)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.add_(0.01)  # weights and average lie apart
    padded = [make_batch(trainer.backbone, n, clips) for n, clips in enumerate(HELD_OUT, 7)]
    found = trainer.validate([cut_to_fit(batch, canvas) for batch in padded])
    assert trainer.average is not None
    with torch.no_grad():
        for weight, average in zip(reference.weights, trainer.average, strict=True):
            weight.copy_(average)
    held_out = [reference.shown(batch) for batch in padded]
    sums = {"true": 0.0, "null": 0.0, "other": 0.0}
    for index, batch in enumerate(held_out):
        size = len(batch.video)
        generator = torch.Generator().manual_seed(trainer.settings.seed + index)
        t = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        noise = torch.randn(batch.latent_mean.shape, generator=generator)
        angle = (t * math.pi / 2)[:, None, None]
        noisy = angle.cos() * batch.latent_mean + angle.sin() * noise
        target = angle.cos() * noise - angle.sin() * batch.latent_mean
        everyone = torch.ones(size, dtype=torch.bool)
        before = [(row - 1) % size for row in range(size)]
        others = VideoBatch(batch.video[before], batch.frames[before], everyone)
        if size == 1:  # the last clip of the batch before, up to this one's last frame
            [own], lender = batch.frames.tolist(), held_out[index - 1]
            tokens = lender.video[-1:, : int(lender.frames[-1])][:, :own]
            others = VideoBatch(tokens, None, everyone)
        videos = {
            "true": VideoBatch(batch.video, batch.frames, everyone),
            "null": VideoBatch(batch.video, batch.frames, ~everyone),
            "other": others,
        }
        for name, video in videos.items():
            with torch.no_grad(), reference.bridge.conditioned_on(video, noisy.shape[-1]):
                loss = loss_of(reference.backbone, batch, noisy, t, target, 0.0)
            sums[name] += float(loss) * size
    clips = sum(map(len, HELD_OUT))
    assert vars(found) == pytest.approx({n: s / clips for n, s in sums.items()}, rel=1e-5)
    assert len(set(vars(found).values())) == 3
    alone = trainer.validate([cut_to_fit(padded[0], canvas)])
    assert not math.isnan(alone.true)
    assert math.isnan(alone.other)  # there is no other clip


def test_clips_of_unequal_lengths_are_refused_where_there_is_no_canvas(preset: Preset) -> None:
    trainer, _ = pair(preset, micro_batches=1)
    with pytest.raises(ModelError, match=r"clips of \[50, 31, 12, 44\] latents in one batch"):
        trainer.train_step([make_batch(trainer.backbone, 0)])


def clips_of(frames: list[int], first: float) -> FeatureBatch:
    """Clips of so many frames, whose tokens are numbers of their own from `first` on."""
    size, most = len(frames), max(frames)
    video = (torch.arange(size) + first).view(-1, 1, 1, 1).repeat(1, most, 1, 1)
    nothing = torch.zeros(size, 1, 1)
    text = [torch.zeros(1, 1)] * size
    return FeatureBatch(
        video, torch.tensor(frames), nothing, nothing, torch.ones(size), text, [1.0] * size
    )


def test_another_clips_video_comes_with_its_own_frame_count() -> None:
    batch, before = clips_of([3, 5, 2], 1.0), clips_of([2, 4], 7.0)
    video, frames = _video_of_others(batch, batch)
    assert video[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert frames.tolist() == [2, 3, 5]
    for length, seen in ((3, 3), (4, 4), (6, 4)):  # of a batch of one: no longer than its own
        video, frames = _video_of_others(clips_of([length], 1.0), before)
        assert video.shape[1] == min(length, 4)
        assert (video[:, 0, 0, 0].tolist(), frames.tolist()) == ([8], [seen])
