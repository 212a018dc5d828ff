"""What the toy's video encoder must give for the bridge to learn from motion alone.

The real bridge, by the toy's recipe, on latents and pooled tokens of clips that never become files;
onset F1 of sounds made for unseen clips. The encoders: random ones, with patches of 16 and of 32
pixels, and the one that is shipped. Figures and what to make of them: docs/toy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone
from model.foley import FoleyControl, SoundRequest, build_bridge
from model.metrics.onsets import Sync, detect_onsets, sync_score
from model.presets.preset import Preset, load_preset
from model.training.feature_batch import FeatureBatch
from model.training.trainer import Trainer
from model.video_encoder import VideoEncoder, VJepa2Encoder
from pipeline.procedural import ProceduralClip, render_audio, render_frames, sample_clip
from recipes.toy.weights import build_video_encoder

FIRST_SEED = 700_000_000  # beyond those of any corpus and of the other toy weights
TRAINED_ON, UNSEEN = 256, 48


@dataclass(frozen=True)
class Clips:
    """Clips, and what does not depend on their pictures."""

    clips: list[ProceduralClip]
    mean: Tensor  # [clips, C, L]
    scale: Tensor  # [clips, C, L]
    text: list[Tensor]


def toy_video() -> Iterator[dict[str, Any]]:
    """Onset F1 at 60 ms by encoder, for a clip's own video and for another's."""
    preset = load_preset("toy")
    clips = _clips(preset, TRAINED_ON + UNSEEN)
    yield from _figures(preset, clips, "random, patch 16", random_encoder(preset, 16))
    yield from _figures(preset, clips, "random, patch 32", random_encoder(preset, 32))
    yield from _figures(
        preset, clips, "pre-trained, as shipped", VideoEncoder.from_pretrained(preset).model
    )


def random_encoder(preset: Preset, patch: int) -> Any:
    """The toy's V-JEPA2 of seed 0 with patches of this side."""
    changed = {"vjepa2": preset.untrained["vjepa2"] | {"patch_size": patch}}
    return build_video_encoder(preset.model_copy(update={"untrained": changed}), seed=0)


def _clips(preset: Preset, count: int) -> Clips:
    clips = [sample_clip(FIRST_SEED + i) for i in range(count)]
    backbone = Backbone.from_pretrained(preset)
    sound = torch.from_numpy(np.stack([render_audio(clip) for clip in clips]))[:, None]
    parts = [backbone.codec.encode(sound[i : i + 32]) for i in range(0, count, 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Clips(clips, mean, scale, backbone.encode_text([clip.prompt for clip in clips]))


def _figures(preset: Preset, clips: Clips, name: str, model: Any) -> Iterator[dict[str, Any]]:
    encoder = VJepa2Encoder(preset.video, model)
    video = torch.stack(
        [encoder.encode(render_frames(clip)) for clip in clips.clips]
    )  # [clips, J, 1, D]
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
            "ratio": round(found.f1_60ms / against.f1_60ms, 2)
            if against and against.f1_60ms
            else None,
        }


def _trained(preset: Preset, clips: Clips, video: Tensor) -> FoleyControl:
    """The toy's bridge, trained by its own recipe on the first clips."""
    backbone = Backbone.from_pretrained(preset)
    torch.manual_seed(0)
    bridge = build_bridge(backbone)
    tokens = video[:TRAINED_ON].flatten(0, -2)
    bridge.set_scale(tokens.mean(0), tokens.std(0))
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
            [
                SoundRequest(clip.prompt, clip.seconds, seed, tokens)
                for seed, clip, tokens in zip(
                    range(first, end), part, video[first:end], strict=True
                )
            ]
        )
        onsets += [detect_onsets(sound.mean(0), foley.preset.sample_rate) for sound in sounds]
    return sync_score([np.array(clip.impacts) for clip in clips.clips[TRAINED_ON:]], onsets)
