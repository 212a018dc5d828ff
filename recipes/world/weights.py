"""The weights of the preset `world` but for its bridge: a random T5, then V-JEPA2, VAE and DiT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone, build_backbone
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import load_preset
from model.types import Audio
from model.weights.load import save_weights
from pipeline.world import WorldClip
from recipes.toy.recipe import Figures, NetworksRecipe, train
from recipes.toy.train_backbone import DitTraining, LatentClips, VaeTraining, train_dit, train_vae
from recipes.toy.train_networks import Descent
from recipes.toy.train_video_encoder import VideoTraining, train_video
from recipes.toy.weights import (
    audio_crops,
    build_video_encoder,
    set_latent_scale,
    write_text_encoder,
)
from recipes.world.clips import RATE, Shard, shards, sound_of
from recipes.world.stereo import make_stereo

OFF_THE_MIDDLE = 0.25  # of the way from the middle of the picture to its side
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
    preference_clips: Sequence[int]
    preference: Mapping[str, Any]  # of its post-training, likewise
    networks: NetworksRecipe
    policy_clips: int  # true ones of each level, with half as many flawed ones
    unseen: int  # clips of each level that the VAE is measured on


#: What made the weights that are shipped.
FULL = Recipe(
    video=VideoTraining(),
    video_clips=(700, 300, 200),
    vae=VaeTraining(
        steps=2600,
        decoder_steps=500,
        learning_rate=1.5e-3,
        windows=(512, 128, 32),
        bands=48,
        floor=1e-3,
        l1_weight=0.0,
        kl_weight=2e-5,
    ),
    vae_clips=(400, 400, 400),
    dit=DitTraining(steps=2800),
    lengths={2.0: 60, 8.0: 60},
    dit_clips=(750, 750, 700),
    bridge_clips=(2600, 2400, 2600),
    train={"steps": 5000},
    preference_clips=(500, 500, 500),
    preference={"steps": 300, "batch_size": 16, "learning_rate": 2.5e-4, "preference": 0.3},
    networks=NetworksRecipe(
        audiobox=Descent(steps=900, batch_size=16, learning_rate=3e-3),
        classifiers=Descent(steps=250, batch_size=16),
        sounds=900,
        imagebind=Descent(steps=1200, batch_size=48, learning_rate=3e-3, warmup=50),
        imagebind_clips=3000,
        imagebind_side=32,
        unseen=96,
    ),
    policy_clips=120,
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
    preference_clips=(4,),
    preference={"steps": 2, "batch_size": 4, "preference": 0.3},
    networks=NetworksRecipe(
        audiobox=(few := Descent(steps=2, batch_size=4, warmup=1)),
        classifiers=few,
        sounds=4,
        imagebind=few,
        imagebind_clips=4,
        unseen=3,
    ),
    policy_clips=14,
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
    """Write the text encoder and the backbone with a trained VAE, which is measured.

    It is trained on single channels, from the toy's.
    """
    preset, figures = load_preset("world", weights=folder), Figures(folder)
    (folder / "model_config.json").unlink(missing_ok=True)  # the scale of an earlier VAE
    write_text_encoder(preset, 0)
    torch.manual_seed(0)
    backbone = Backbone(preset, build_backbone(preset))
    # from random weights the decoder found the noise between hits, and in thousands of steps no
    # hit: those of worlds are of many pitches, where the toy's are of four
    mono = Backbone.from_pretrained(load_preset("toy")).model.pretransform.model
    with figures.timed("VAE"):
        audio = torch.cat([_audio(shard) for shard in shards(folder, recipe.vae_clips)])
        crops = audio_crops(audio.flatten(0, 1)[:, None], recipe.vae.seed)
        train(
            "VAE", recipe.vae.steps + recipe.vae.decoder_steps, train_vae(mono, crops, recipe.vae)
        )
    make_stereo(mono, backbone.model.pretransform.model)
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


def _audio(shard: Shard) -> Tensor:
    """Sounds [clips, 2, S] of a shard."""
    return torch.from_numpy(shard.sounds())


def latent_clips(backbone: Backbone, of: Sequence[Shard]) -> LatentClips:
    """Latents and text of clips of 4 s, as they are and with their channels swapped."""
    sounds = torch.cat([_audio(shard) for shard in of])
    return _latents(backbone, sounds, [t["prompt"] for shard in of for t in shard.truths()], 4.0)


def _latents(
    backbone: Backbone, sounds: Tensor, prompts: Sequence[str], seconds: float
) -> LatentClips:
    both = torch.cat([sounds, sounds.flip(1)])
    parts = [backbone.codec.encode(both[i : i + 32]) for i in range(0, len(both), 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    text = backbone.encode_text([*prompts, *without(prompts, 3)])
    return LatentClips(mean, scale, text, seconds)


def without(prompts: Sequence[str], every: int) -> list[str]:
    """The prompts with one in `every` left empty, so that an empty one is trained on too."""
    return ["" if i % every == 0 else prompt for i, prompt in enumerate(prompts)]


def _of_length(backbone: Backbone, seconds: float, count: int, levels: int) -> LatentClips:
    clips = [
        WorldClip(UNSEEN + 10_000_000 + i, level, seconds)
        for level in range(1, levels + 1)
        for i in range(count)
    ]
    sounds = torch.from_numpy(np.stack([sound_of(clip) for clip in clips]))
    return _latents(backbone, sounds, [clip.world.prompt for clip in clips], seconds)


def reconstruction(backbone: Backbone, levels: int, count: int) -> dict[str, Any]:
    """How well the VAE keeps onsets and sides, on clips that it has not seen, by level.

    The side is that of the louder channel in the 50 ms after a hit off the middle.
    """
    found: dict[str, Any] = {}
    for level in range(1, levels + 1):
        clips = [WorldClip(UNSEEN + i, level) for i in range(count)]
        true = np.stack([sound_of(clip) for clip in clips])
        latents = backbone.codec.encode(torch.from_numpy(true))[0]
        decoded = backbone.codec.decode(latents).numpy()
        truths = [clip.truth() for clip in clips]
        kinds = {"true sound": true, "decoded": decoded}
        found[str(level)] = {
            "clips": count,
            **{name: _kept(truths, waves) for name, waves in kinds.items()},
        }
    return found


def _kept(truths: Sequence[Mapping[str, Any]], waves: Audio) -> dict[str, float]:
    """Onset F1 at 60 ms of sounds [clips, 2, S], and how often the louder side is the true one."""
    impacts = [np.array(truth["impacts"], float) for truth in truths]
    sync = sync_score(impacts, [detect_onsets(wave.mean(0), RATE) for wave in waves])
    right = [
        (energy[1] > energy[0]) == (event["pan"] > 0)
        for truth, wave in zip(truths, waves, strict=True)
        for event in truth["events"]
        if event["kind"] == "hit" and event["heard"] and abs(event["pan"]) >= OFF_THE_MIDDLE
        for energy in [np.square(wave[:, round(event["time"] * RATE) :][:, : RATE // 20]).sum(1)]
    ]
    return {"onsets": round(sync.f1_60ms, 4), "sides": round(float(np.mean(right)), 4)}
