"""The bridge of the preset `world`, on features of worlds that are held in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import build_bridge
from model.presets.preset import load_preset
from model.training.feature_batch import FeatureBatch
from model.training.trainer import Trainer
from model.types import Audio
from model.video_encoder import VideoEncoder
from model.weights.files import BRIDGE_FILE
from model.weights.load import read_weights
from recipes.toy.recipe import Figures, train
from recipes.world.clips import Shard, shards
from recipes.world.stereo import other_channel
from recipes.world.weights import Recipe, without

PRETRAINED = "pretrained.safetensors"  # the bridge before its post-training


def make_bridge(folder: Path, recipe: Recipe) -> None:
    """Write the bridge, by the training step of `foley train`, on features in memory.

    Each clip comes as it is and mirrored, with its channels swapped.
    """
    preset = load_preset("world", weights=folder)
    backbone = Backbone.from_pretrained(preset)
    with Figures(folder).timed("bridge"):
        features = cached_features(backbone, shards(folder, recipe.bridge_clips))
        torch.manual_seed(preset.train.seed)
        bridge = build_bridge(backbone)
        bridge.set_scale(features.video.mean((0, 1, 2)), features.video.std((0, 1, 2)))
        train_bridge((backbone, bridge), features, recipe.train, folder / PRETRAINED)
    shutil.copy(folder / PRETRAINED, folder / BRIDGE_FILE)


def make_preference(folder: Path, recipe: Recipe) -> None:
    """Write the bridge anew, post-trained to prefer a clip's own sound to a false one."""
    preset = load_preset("world", weights=folder)
    backbone = Backbone.from_pretrained(preset)
    with Figures(folder).timed("preference"):
        features = cached_features(backbone, shards(folder, recipe.preference_clips))
        bridge = build_bridge(backbone)
        weights = read_weights(folder / PRETRAINED)
        bridge.load_state_dict({name: value.float() for name, value in weights.items()})
        train_bridge((backbone, bridge), features, recipe.preference, folder / BRIDGE_FILE)


def train_bridge(
    models: tuple[Backbone, Bridge], features: FeatureBatch, changes: Mapping[str, Any], path: Path
) -> None:
    """Train a bridge by the preset's settings but for `changes`, and write it."""
    backbone, bridge = models
    settings = backbone.preset.train.model_copy(update=dict(changes))
    bridge.insert(backbone.dit)
    trainer = Trainer(backbone, bridge, settings)
    train("bridge", settings.steps, bridge_losses(trainer, features))
    with trainer.best():
        facts = BridgeFacts.of(backbone.preset, backbone.objective, 4.0)
        save_bridge(path, bridge.half(), facts)


def bridge_losses(trainer: Trainer, features: FeatureBatch) -> Iterator[float]:
    """Train on random batches of all clips -> the loss of each step."""
    generator = torch.Generator().manual_seed(trainer.settings.seed)
    while not trainer.finished:
        size = (trainer.settings.batch_size,)
        rows = torch.randint(len(features.video), size, generator=generator)
        yield trainer.train_step([rows_of(features, rows)]).loss


def rows_of(features: FeatureBatch, rows: Tensor) -> FeatureBatch:
    """Some clips of a batch."""
    at = rows.tolist()
    tensors = {k: v[rows] for k, v in vars(features).items() if isinstance(v, Tensor)}
    return replace(
        features,
        **tensors,
        text=[features.text[i] for i in at],
        seconds=[features.seconds[i] for i in at],
    )


def cached_features(backbone: Backbone, of: Sequence[Shard]) -> FeatureBatch:
    """Features of all clips as they are, mirrored, and with the sounds of other materials.

    Half of the own sounds have no prompt, so that the picture has to tell the material; that of
    other materials is told by the prompt alone. So a third of all has no prompt.
    """
    encoder = VideoEncoder.from_pretrained(backbone.preset)
    clips = [clip for shard in of for clip in shard.frames()]
    video = torch.stack([encoder.encode(clip) for clip in clips])
    mirrored = [encoder.encode(np.ascontiguousarray(clip[:, :, ::-1])) for clip in clips]
    own, other = (
        _encoded(backbone, sounds)
        for sounds in ([s.sounds() for s in of], [s.other_sounds() for s in of])
    )
    truths = [truth for shard in of for truth in shard.truths()]
    return _features(
        backbone,
        (video, torch.stack(mirrored)),
        (own, other),
        (
            [truth["prompt"] for truth in truths],
            [truth["other_prompt"] for truth in truths if "other_prompt" in truth],
        ),
    )


Pair = tuple[Tensor, Tensor]


def _encoded(backbone: Backbone, sounds: Sequence[Audio]) -> Pair:
    """Mean and scale of the latents of sounds, each [clips, C, L]."""
    parts = [backbone.codec.encode(torch.from_numpy(of)) for of in sounds]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _features(
    backbone: Backbone,
    video: Pair,
    latents: tuple[Pair, Pair],
    prompts: tuple[Sequence[str], Sequence[str]],
) -> FeatureBatch:
    """A batch of everything: tokens and mirrored ones, latents and prompts of own and other."""
    tokens = torch.cat([*video, *[of[::2] for of in video]])
    own, other = latents
    mean, scale = (
        torch.cat([own[i], other_channel(own[i]), other[i], other_channel(other[i])])
        for i in (0, 1)
    )
    asked = without(prompts[0], 2)
    unasked = ["" if said else prompt for said, prompt in zip(asked, prompts[0], strict=True)]
    clips, frames_of = tokens.shape[:2]
    return FeatureBatch(
        tokens,
        torch.full((clips,), frames_of),
        mean,
        scale,
        torch.full((clips,), mean.shape[-1]),
        backbone.encode_text([*asked, *unasked, *prompts[1], *prompts[1]]),
        [4.0] * clips,
    )
