"""Training shows the DiT what generation shows it, of clips of every length."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoCondition
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import FoleyControl, SoundRequest, build_bridge
from model.presets.preset import Preset
from model.presets.settings import WindowSettings
from model.sampling.canvas import Canvas, SilentTail
from model.training.feature_batch import FeatureBatch, cut_to_fit
from model.training.trainer import Trainer
from model.video_encoder import frame_times

SECONDS = (1.99, 1.22, 2.6, 0.47)
PROMPTS = ("metal", "a ball bounces on wood", "glass", "")


@dataclass(frozen=True)
class Shown:
    """What the DiT and the bridge got in one forward."""

    x: Tensor
    inputs: dict[str, Tensor]
    video: VideoCondition


@contextmanager
def watched(backbone: Backbone, bridge: Bridge) -> Generator[list[Shown]]:
    seen: list[Shown] = []

    def note(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given = {k: v for k, v in kwargs.items() if isinstance(v, Tensor)}
        assert bridge.blocks[0].condition is not None
        seen.append(Shown(args[0], given, bridge.blocks[0].condition))

    handle = backbone.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.fixture(params=[None, 3.0], ids=["no canvas", "canvas"])
def sized(preset: Preset, request: pytest.FixtureRequest) -> Preset:
    window = WindowSettings(seconds=3.0, overlap=1.0, canvas_seconds=request.param)
    return preset.model_copy(update={"window": window})


def features_of(backbone: Backbone) -> tuple[FeatureBatch, list[Tensor]]:
    """Four clips as their stages would encode them and a feature set pads them."""
    preset, generator = backbone.preset, torch.Generator().manual_seed(0)
    videos = [
        torch.randn(len(frame_times(s, 16)) // 2, 1, preset.video.width, generator=generator)
        for s in SECONDS
    ]
    sounds = [torch.randn(1, 1, round(s * 16000), generator=generator) * 0.1 for s in SECONDS]
    means, scales = zip(*(backbone.codec.encode(sound) for sound in sounds), strict=True)
    counts = [mean.shape[-1] for mean in means]

    def padded(rows: Any) -> Tensor:
        longest = max(row.shape[-1] for row in rows)
        return torch.cat([torch.nn.functional.pad(r, (0, longest - r.shape[-1])) for r in rows])

    return FeatureBatch(
        video=torch.nn.utils.rnn.pad_sequence(videos, batch_first=True),
        frames=torch.tensor([len(video) for video in videos]),
        latent_mean=padded(means),
        latent_scale=padded(scales),
        latents=torch.tensor(counts),
        text=backbone.encode_text(PROMPTS),
        seconds=list(SECONDS),
    ), videos


def one(batch: FeatureBatch, row: int) -> FeatureBatch:
    values = {name: value[row : row + 1] for name, value in vars(batch).items()}
    return FeatureBatch(**values)


def assert_same(trained: Shown, row: int, generated: Shown) -> None:
    """All but the noisy latents themselves, of which only the shape is to be the same."""
    assert trained.x.shape[1:] == generated.x.shape[1:]
    assert trained.inputs.keys() == generated.inputs.keys()
    for name, value in trained.inputs.items():
        torch.testing.assert_close(value[row], generated.inputs[name][0], msg=name)
    assert trained.video.n_latents == generated.video.n_latents == trained.x.shape[-1]
    for mine, theirs in zip(
        trained.video.latent_rotation, generated.video.latent_rotation, strict=True
    ):
        assert torch.equal(mine, theirs)
    parts: list[list[Tensor]] = []
    for shown, of in ((trained, row), (generated, 0)):
        video = shown.video
        mask = torch.ones(video.tokens.shape[1]).bool() if video.mask is None else video.mask[of]
        parts.append([video.tokens[of][mask], *(r[0, 0][mask] for r in video.token_rotation)])
    for mine, theirs in zip(*parts, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_clip_is_shown_in_training_as_in_generation(sized: Preset) -> None:
    backbone = Backbone.from_pretrained(sized)
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    features, videos = features_of(backbone)
    whole = {"video_drop": 0.0, "text_drop": 0.0, "batch_size": 4}
    trainer = Trainer(backbone, bridge, sized.train.model_copy(update=whole))
    canvas = Canvas.of(sized)
    alone = [cut_to_fit(one(features, row), canvas) for row in range(4)]
    with watched(backbone, bridge) as trained:
        for batch in alone:
            trainer.train_step([batch])
        trainer.train_step([cut_to_fit(features, canvas)])
    foley = FoleyControl(backbone, bridge)
    settings = sized.sample.model_copy(update={"steps": 1, "cfg": 1.0})
    for row, seconds in enumerate(SECONDS):
        request = SoundRequest(PROMPTS[row], seconds, row, videos[row])
        with watched(backbone, bridge) as generated:
            foley.generate([request], settings)
        assert_same(trained[row], 0, generated[0])
        if canvas.seconds:  # all four have room on it
            assert_same(trained[4], row, generated[0])
            assert trained[4].x.shape[-1] == 75
    if not canvas.seconds:  # all are as long as the shortest, which is as it would be alone
        length = -(-round(SECONDS[3] * 16000) // 640)
        for row in range(4):
            seconds = SECONDS[3] if row == 3 else length / 25
            request = SoundRequest(PROMPTS[row], seconds, row, videos[row])
            with watched(backbone, bridge) as generated:
                foley.generate([request], settings)
            assert_same(trained[4], row, generated[0])


def test_windows_are_shown_on_the_canvas_too(preset: Preset) -> None:
    window = WindowSettings(seconds=2.0, overlap=1.0, canvas_seconds=2.8)
    preset = preset.model_copy(update={"window": window})
    backbone = Backbone.from_pretrained(preset)
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    settings = preset.sample.model_copy(update={"steps": 2})
    with watched(backbone, bridge) as shown:
        [sound] = FoleyControl(backbone, bridge).generate([SoundRequest("wood", 4.5)], settings)
    assert sound.shape == (1, round(4.5 * 16000))
    assert len(shown) > 2
    assert {part.x.shape[-1] for part in shown} == {70}
    tails = torch.stack([part.x[..., 50:] for part in shown])
    assert not torch.equal(shown[0].x[..., :50], shown[1].x[..., :50])
    assert torch.equal(tails[0], tails[1])  # one silence behind all windows of a step
    assert not torch.equal(tails[0], tails[-1])  # at the noise level of the step


def test_a_bridge_brings_the_canvas_that_it_was_trained_on(preset: Preset, tmp_path: Path) -> None:
    window = WindowSettings(seconds=2.0, overlap=1.0, canvas_seconds=3.0)
    trained = preset.model_copy(update={"window": window})
    bridge = build_bridge(Backbone.from_pretrained(trained))
    save_bridge(tmp_path / "bridge.safetensors", bridge, BridgeFacts.of(trained, "v", 3.5))
    for given in (preset, trained):
        found = FoleyControl.from_pretrained(given, tmp_path / "bridge.safetensors").preset.window
        assert found.canvas_seconds == 3.0
        assert found.seconds <= 3.0
    assert found == window


def test_the_tail_is_silence_at_every_noise_level(preset: Preset) -> None:
    backbone = Backbone.from_pretrained(preset)
    mean, scale = backbone.silence
    silence = backbone.codec.encode(torch.zeros(1, 1, 640 * 120))[0][0]
    torch.testing.assert_close(silence[:, 40:80], mean[:, None].expand(-1, 40), atol=1e-4, rtol=0)
    tail = SilentTail(backbone, [3, 4], 500)
    x = torch.zeros(2, preset.latent_channels, 7)
    for t in (0.0, 0.5, 1.0):
        shown = tail.behind(x, torch.full((2,), t))
        assert torch.equal(shown[..., :7], x)
        alpha, sigma = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)
        found = shown[..., 7:].transpose(0, 1).flatten(1)  # [C, 1000]
        deviation = (alpha**2 * scale**2 + sigma**2).sqrt()
        torch.testing.assert_close(
            found.std(1) / deviation, torch.ones(len(mean)), atol=0.15, rtol=0
        )
        apart = (found.mean(1) - alpha * mean) / deviation
        assert float(apart.abs().max()) < 0.15
    other = SilentTail(backbone, [4, 3], 500).behind(x, torch.ones(2))
    torch.testing.assert_close(other.flip(0), tail.behind(x, torch.ones(2)))


@pytest.mark.parametrize("seconds", [4.00001, 3.99999, 2.0, 1.3333, 0.04, 0.0401, 0.013, 7.2])
def test_a_sound_has_as_many_latents_as_its_autoencoder_gives(
    backbone: Backbone, preset: Preset, seconds: float
) -> None:
    samples = torch.zeros(1, 1, round(seconds * preset.sample_rate))
    latents = backbone.codec.encode(samples)[0].shape[-1]
    assert Canvas.of(preset).latents(seconds) == latents
    frames = len(frame_times(seconds, preset.video.fps)) // 2
    assert abs(Canvas.of(preset).frames(latents) - frames) <= 1  # both cut to the former
