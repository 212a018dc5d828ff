"""The weights of the preset `world`: a random T5, then V-JEPA2, VAE, DiT and the bridge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone, build_backbone
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import build_bridge
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import load_preset
from model.training.feature_batch import FeatureBatch
from model.training.trainer import Trainer
from model.video_encoder import VideoEncoder
from model.weights.files import BRIDGE_FILE
from model.weights.load import save_weights
from pipeline.world import WorldClip
from recipes.toy.recipe import Figures, train
from recipes.toy.train_backbone import DitTraining, LatentClips, VaeTraining, train_dit, train_vae
from recipes.toy.train_video_encoder import VideoTraining, train_video
from recipes.toy.weights import (
    audio_crops,
    build_video_encoder,
    set_latent_scale,
    write_text_encoder,
)
from recipes.world.clips import RATE, Shard, shards, sound_of
from recipes.world.warm_start import start_from_toy

UNSEEN = 500_000_000  # the first seed of clips that a network is measured on


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of each training, and how many worlds of each level it sees."""

    video: VideoTraining
    video_clips: Sequence[int]
    vae: VaeTraining
    vae_clips: Sequence[int]
    dit: DitTraining
    lengths: Mapping[float, int]  # seconds other than 4: clips of each level for the DiT
    dit_clips: Sequence[int]
    bridge_clips: Sequence[int]
    train: Mapping[str, Any]  # of the bridge, besides what the preset says
    unseen: int  # clips of each level that the VAE is measured on


#: What made the weights that are shipped.
FULL = Recipe(
    video=VideoTraining(),
    video_clips=(700, 300, 200),
    vae=VaeTraining(
        steps=1500,
        decoder_steps=300,
        learning_rate=1.5e-3,
        windows=(512, 128, 32),
        bands=48,
        floor=1e-3,
        l1_weight=0.0,
        kl_weight=2e-5,
    ),
    vae_clips=(400, 400, 400),
    dit=DitTraining(steps=3000),
    lengths={2.0: 100, 8.0: 100},
    dit_clips=(3200, 1200, 900),
    bridge_clips=(3200, 1200, 900),
    train={},
    unseen=32,
)

#: Shows in seconds that every step still runs; its weights are good for nothing.
QUICK = Recipe(
    video=VideoTraining(steps=2, batch_size=4, warmup=1),
    video_clips=(4,),
    vae=VaeTraining(steps=2, decoder_steps=1, warmup=1),
    vae_clips=(4,),
    dit=DitTraining(steps=2, batch_size=4, warmup=1),
    lengths={2.0: 2},
    dit_clips=(4,),
    bridge_clips=(4,),
    train={"steps": 2, "batch_size": 4},
    unseen=2,
)


def make_video_encoder(folder: Path, recipe: Recipe) -> None:
    """Write V-JEPA2, trained by itself on pictures of worlds."""
    preset = load_preset("world", weights=folder)
    with Figures(folder).timed("V-JEPA2"):
        model = build_video_encoder(preset, recipe.video.seed)
        pictures = np.concatenate([s.frames() for s in shards(folder, recipe.video_clips)])
        train("V-JEPA2", recipe.video.steps, train_video(model, pictures, recipe.video))
    model.half().save_pretrained(preset.model("video"))


def make_vae(folder: Path, recipe: Recipe) -> None:
    """Write the text encoder and the backbone with a trained VAE, which is measured."""
    preset, figures = load_preset("world", weights=folder), Figures(folder)
    (folder / "model_config.json").unlink(missing_ok=True)  # the scale of an earlier VAE
    write_text_encoder(preset, 0)
    torch.manual_seed(0)
    backbone = Backbone(preset, build_backbone(preset))
    autoencoder = backbone.model.pretransform.model
    start_from_toy(autoencoder)
    with figures.timed("VAE"):
        audio = torch.cat([_audio(shard) for shard in shards(folder, recipe.vae_clips)])
        losses = train_vae(autoencoder, audio_crops(audio, recipe.vae.seed), recipe.vae)
        train("VAE", recipe.vae.steps + recipe.vae.decoder_steps, losses)
    few = audio[:: max(1, len(audio) // 64)]
    set_latent_scale(backbone, few, folder / "model_config.json")
    save_weights(preset.model("backbone"), backbone.model.state_dict(), torch.float16)
    figures.add("reconstruction", reconstruction(backbone, len(recipe.vae_clips), recipe.unseen))


def make_dit(folder: Path, recipe: Recipe) -> None:
    """Write the backbone with a trained DiT, for latents of the VAE that is there."""
    preset = load_preset("world", weights=folder)
    backbone = Backbone.from_pretrained(preset)
    with Figures(folder).timed("DiT"):
        groups = [latent_clips(backbone, shards(folder, recipe.dit_clips))]
        for seconds, count in recipe.lengths.items():
            groups.append(_of_length(backbone, seconds, count, len(recipe.dit_clips)))
        train("DiT", recipe.dit.steps, train_dit(backbone, groups, recipe.dit))
    save_weights(preset.model("backbone"), backbone.model.state_dict(), torch.float16)


def make_bridge(folder: Path, recipe: Recipe) -> None:
    """Write the bridge, by the training step of `foley train`, on features in memory.

    Each clip comes as it is and mirrored, with its channels swapped.
    """
    preset = load_preset("world", weights=folder)
    settings = preset.train.model_copy(update=dict(recipe.train))
    backbone = Backbone.from_pretrained(preset)
    with Figures(folder).timed("bridge"):
        features = cached_features(backbone, shards(folder, recipe.bridge_clips))
        torch.manual_seed(settings.seed)
        bridge = build_bridge(backbone)
        bridge.set_scale(features.video.mean((0, 1, 2)), features.video.std((0, 1, 2)))
        bridge.insert(backbone.dit)
        trainer = Trainer(backbone, bridge, settings)
        train("bridge", settings.steps, bridge_losses(trainer, features))
    with trainer.best():
        facts = BridgeFacts.of(preset, backbone.objective, 4.0)
        save_bridge(folder / BRIDGE_FILE, bridge.half(), facts)


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
    """Features of all clips, then those of the mirrored ones."""
    encoder = VideoEncoder.from_pretrained(backbone.preset)
    video: list[Tensor] = []
    latents: list[tuple[Tensor, Tensor]] = []
    for mirrored in (False, True):
        for shard in of:
            frames, sounds = shard.frames(), shard.sounds()
            if mirrored:
                frames, sounds = frames[:, :, :, ::-1], sounds[:, ::-1].copy()
            video += [encoder.encode(np.ascontiguousarray(clip)) for clip in frames]
            latents.append(backbone.codec.encode(torch.from_numpy(sounds)))
    mean, scale = (torch.cat([part[i] for part in latents]) for i in (0, 1))
    tokens = torch.stack(video)
    text = backbone.encode_text([t["prompt"] for shard in of for t in shard.truths()])
    clips, frames_of = tokens.shape[:2]
    return FeatureBatch(
        tokens,
        torch.full((clips,), frames_of),
        mean,
        scale,
        torch.full((clips,), mean.shape[-1]),
        [*text, *text],
        [4.0] * clips,
    )


def _audio(shard: Shard) -> Tensor:
    """Sounds [clips, 2, S] of a shard."""
    return torch.from_numpy(shard.sounds())


def latent_clips(backbone: Backbone, of: Sequence[Shard]) -> LatentClips:
    """Latents and text of clips of 4 s."""
    parts = [backbone.codec.encode(_audio(shard)) for shard in of]
    prompts = [truth["prompt"] for shard in of for truth in shard.truths()]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return LatentClips(mean, scale, backbone.encode_text(prompts), 4.0)


def _of_length(backbone: Backbone, seconds: float, count: int, levels: int) -> LatentClips:
    clips = [
        WorldClip(UNSEEN + 10_000_000 + i, level, seconds)
        for level in range(1, levels + 1)
        for i in range(count)
    ]
    sounds = torch.from_numpy(np.stack([sound_of(clip) for clip in clips]))
    parts = [backbone.codec.encode(sounds[i : i + 32]) for i in range(0, len(sounds), 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    text = backbone.encode_text([clip.world.prompt for clip in clips])
    return LatentClips(mean, scale, text, seconds)


def reconstruction(backbone: Backbone, levels: int, count: int) -> dict[str, Any]:
    """How well the VAE keeps onsets and sides, on clips that it has not seen, by level.

    The side is right where the louder channel of 50 ms after a hit off the middle is the true one.
    """
    found: dict[str, Any] = {}
    for level in range(1, levels + 1):
        clips = [WorldClip(UNSEEN + i, level) for i in range(count)]
        true = np.stack([sound_of(clip) for clip in clips])
        latents = backbone.codec.encode(torch.from_numpy(true))[0]
        decoded = backbone.codec.decode(latents).numpy()
        truths = [clip.truth() for clip in clips]
        impacts = [np.array(truth["impacts"], float) for truth in truths]
        found[str(level)] = {
            "clips": count,
            **{
                name: round(
                    sync_score(impacts, [detect_onsets(w.mean(0), RATE) for w in waves]).f1_60ms, 4
                )
                for name, waves in (("true sound", true), ("decoded", decoded))
            },
        }
    return found
