"""What the toy's video encoder must give for the bridge to learn from motion alone, without the ring at each impact.

The real bridge, by the toy's recipe, on latents and pooled tokens of clips that never become files; onset F1 of sounds
made for unseen clips. The encoders: random ones, with patches of 16 and of 32 pixels, and one that model/pretrain_video
has trained. Figures and what to make of them: docs/toy-video-encoder.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from model.backbone import Backbone
from model.foley import FoleyControl, build_bridge
from model.onsets import Sync, detect_onsets, sync_score
from model.presets import Preset, load_preset
from model.pretrain_video import VideoTraining, train_video
from model.training import FeatureBatch, Trainer
from model.video import VJepa2Encoder
from pipeline.procedural import SIZE, ProceduralClip, render_audio, render_frames, sample_clip

FIRST_SEED = 700_000_000  # beyond those of any corpus and of the other toy weights
TRAINED_ON, UNSEEN, PRETRAINED_ON = 256, 48, 1200
PREDICTOR = {"pred_hidden_size": 96, "pred_num_attention_heads": 3, "pred_num_hidden_layers": 2}


@dataclass(frozen=True)
class Clips:
    """Clips, and what does not depend on their pictures."""

    clips: list[ProceduralClip]
    mean: Tensor  # [clips, C, L]
    scale: Tensor  # [clips, C, L]
    text: list[Tensor]


def toy_video() -> Iterator[dict[str, Any]]:
    """Onset F1 at 60 ms by encoder, with and without the ring, for a clip's own video and for another's."""
    preset = load_preset("toy")
    clips = _clips(preset, TRAINED_ON + UNSEEN)
    yield from _figures(preset, clips, "random, patch 16, ring", random_encoder(preset, 16), ring=True)
    yield from _figures(preset, clips, "random, patch 16", random_encoder(preset, 16))
    yield from _figures(preset, clips, "random, patch 32", random_encoder(preset, 32))
    yield from _figures(preset, clips, "pre-trained, patch 32", pretrained_encoder(preset, 32, VideoTraining()))


def random_encoder(preset: Preset, patch: int) -> Any:
    """The toy's V-JEPA2 of seed 0 with patches of this side."""
    torch.manual_seed(0)
    size: dict[str, Any] = {**preset.untrained["vjepa2"], **PREDICTOR, "patch_size": patch}
    return VJEPA2Model(VJEPA2Config(**size))


def pretrained_encoder(preset: Preset, patch: int, settings: VideoTraining, count: int = PRETRAINED_ON) -> Any:
    """The same, trained on clips without a ring."""
    model = random_encoder(preset, patch)
    clips = np.empty((count, preset.video.segment_frames, SIZE, SIZE, 3), np.uint8)
    for i in range(count):
        clips[i] = render_frames(sample_clip(FIRST_SEED + 10_000_000 + i), ring=False)
    train_video(model, clips, settings, lambda _, __: None)
    return model


def _clips(preset: Preset, count: int) -> Clips:
    clips = [sample_clip(FIRST_SEED + i) for i in range(count)]
    backbone = Backbone.from_pretrained(preset)
    sound = torch.from_numpy(np.stack([render_audio(clip) for clip in clips]))[:, None]
    parts = [backbone.encode_audio(sound[i : i + 32]) for i in range(0, count, 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Clips(clips, mean, scale, backbone.encode_text([clip.prompt for clip in clips]))


def _figures(preset: Preset, clips: Clips, name: str, model: Any, *, ring: bool = False) -> Iterator[dict[str, Any]]:
    encoder = VJepa2Encoder(preset.video, model)
    video = torch.stack([encoder.encode(render_frames(clip, ring=ring)) for clip in clips.clips])  # [clips, J, 1, D]
    foley = _trained(preset, clips, video)
    own = _score(foley, clips, video)
    other = _score(foley, clips, video.roll(1, 0))
    for of, found, against in (("own", own, other), ("another's", other, None)):
        yield {
            "name": f"onset F1 at 60 ms, {of} video: {name}",
            "value": round(found.f1_60ms, 3),
            "unit": "F1",
            "better": "higher",
            "against": "another's video" if against else None,
            "ratio": round(found.f1_60ms / against.f1_60ms, 2) if against and against.f1_60ms else None,
        }


def _trained(preset: Preset, clips: Clips, video: Tensor) -> FoleyControl:
    """The toy's bridge, trained by its own recipe on the first clips."""
    backbone = Backbone.from_pretrained(preset)
    torch.manual_seed(0)
    bridge = build_bridge(backbone, video.shape[-1])
    bridge.fit_scale(video[:TRAINED_ON].flatten(0, -2))
    bridge.insert(backbone.dit)
    trainer, size = Trainer(backbone, bridge, preset.train), preset.train.batch_size
    generator = torch.Generator().manual_seed(0)
    while trainer.step < preset.train.steps:
        order = torch.randperm(TRAINED_ON, generator=generator)
        for rows in order.split(size)[: preset.train.steps - trainer.step]:
            trainer.train_step([_batch(clips, video, rows)])
    return FoleyControl(backbone, bridge)


def _batch(clips: Clips, video: Tensor, rows: Tensor) -> FeatureBatch:
    full = torch.ones(len(rows), dtype=torch.long)
    return FeatureBatch(
        video=video[rows],
        frames=full * video.shape[1],
        latent_mean=clips.mean[rows],
        latent_scale=clips.scale[rows],
        latents=full * clips.mean.shape[-1],
        text=[clips.text[row] for row in rows.tolist()],
        seconds=[clips.clips[row].seconds for row in rows.tolist()],
    )


def _score(foley: FoleyControl, clips: Clips, video: Tensor) -> Sync:
    """Agreement of the sounds made for the last clips with their impacts."""
    onsets: list[Any] = []
    for first, end in pairwise(range(TRAINED_ON, TRAINED_ON + UNSEEN + 1, 16)):
        part = clips.clips[first:end]
        sounds = foley.generate(
            list(video[first:end]), [c.prompt for c in part], [c.seconds for c in part], range(first, end)
        )
        onsets += [detect_onsets(sound.mean(0), foley.preset.sample_rate) for sound in sounds]
    return sync_score([np.array(clip.impacts) for clip in clips.clips[TRAINED_ON:]], onsets)
