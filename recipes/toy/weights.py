"""The toy's video encoder and backbone: a random T5, then V-JEPA2, VAE and DiT trained on clips.

Sound and picture are rendered apart, from seeds that no corpus uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.backbone import Backbone, build_backbone
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import Preset, load_preset
from model.types import Frames
from model.weights.load import save_weights
from pipeline.procedural import (
    FPS,
    SIZE,
    ProceduralClip,
    material_of,
    render_audio,
    render_frames,
    sample_clip,
)
from recipes.toy.recipe import Figures, Recipe, train
from recipes.toy.train_backbone import LatentClips, train_dit, train_vae
from recipes.toy.train_video_encoder import train_video

FIRST_SEED = 500_000_000  # a corpus of seed s uses clips s * 1,000,000 + i
FIRST_VIDEO = 210_000_000  # the first clip of V-JEPA2, from FIRST_SEED on
CROP = 16 * 640  # audio samples that the VAE sees at once


def build_video_encoder(preset: Preset, seed: int) -> Any:
    """A random V-JEPA2 of the preset's size (transformers' VJEPA2Model, with its predictor)."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(seed)
    return VJEPA2Model(VJEPA2Config(**preset.untrained["vjepa2"]))


def make_video_encoder(folder: Path, recipe: Recipe) -> None:
    """Write V-JEPA2, trained by itself on procedural pictures."""
    preset = load_preset("toy", weights=folder)
    with Figures(folder).timed("V-JEPA2"):
        model = build_video_encoder(preset, recipe.video.seed)
        pictures = render_pictures(recipe.video_clips, preset.video.segment_frames)
        train("V-JEPA2", recipe.video.steps, train_video(model, pictures, recipe.video))
    model.half().save_pretrained(preset.model("video"))


def make_backbone(folder: Path, recipe: Recipe) -> None:
    """Write the text encoder, and the VAE and the DiT, which are measured and trained in turn."""
    preset, figures = load_preset("toy", weights=folder), Figures(folder)
    (folder / "model_config.json").unlink(missing_ok=True)  # the scale of an earlier VAE
    write_text_encoder(preset, 0)
    torch.manual_seed(0)
    backbone = Backbone(preset, build_backbone(preset))
    vae, dit = recipe.vae, recipe.dit
    with figures.timed("VAE"):
        _, audio = render(recipe.backbone_clips, first=0)
        losses = train_vae(backbone.model.pretransform.model, audio_crops(audio, vae.seed), vae)
        train("VAE", vae.steps + vae.decoder_steps, losses)
    set_latent_scale(backbone, audio[:64], folder / "model_config.json")
    figures.add("reconstruction", reconstruction(backbone, min(48, recipe.unseen)))
    with figures.timed("DiT"):
        groups: list[LatentClips] = []
        for i, (seconds, share) in enumerate(recipe.lengths.items()):
            count = int(recipe.backbone_clips * share)
            groups.append(latent_clips(backbone, *render(count, (i + 1) * 100_000, seconds)))
        train("DiT", dit.steps, train_dit(backbone, groups, dit))
    save_weights(preset.model("backbone"), backbone.model.state_dict(), torch.float16)


def write_text_encoder(preset: Preset, seed: int) -> None:
    """A random T5 encoder over bytes, as a transformers folder."""
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(seed)
    folder = preset.model("text")
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)
    T5EncoderModel(T5Config(**preset.untrained["t5"])).half().save_pretrained(folder)


def render(count: int, first: int, seconds: float = 4.0) -> tuple[list[ProceduralClip], Tensor]:
    """Clips and their sound [count, 1, S]."""
    clips = [sample_clip(FIRST_SEED + first + i, seconds) for i in range(count)]
    return clips, torch.from_numpy(np.stack([render_audio(clip) for clip in clips]))[:, None]


def render_pictures(count: int, frames: int) -> Frames:
    """Pictures [count, frames, SIZE, SIZE, 3] of clips of `frames` at the toy's rate."""
    pictures = np.empty((count, frames, SIZE, SIZE, 3), np.uint8)
    for i in range(count):
        pictures[i] = render_frames(sample_clip(FIRST_SEED + FIRST_VIDEO + i, frames / FPS))
    return pictures


def audio_crops(audio: Tensor, seed: int, batch: int = 8) -> Iterator[Tensor]:
    """Random crops [batch, 1, CROP] of sound [clips, 1, S], for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(audio), (batch,), generator=generator)
        starts = torch.randint(audio.shape[-1] - CROP, (batch,), generator=generator)
        yield torch.stack([audio[r, :, s : s + CROP] for r, s in zip(rows, starts, strict=True)])


def latent_clips(backbone: Backbone, clips: list[ProceduralClip], audio: Tensor) -> LatentClips:
    """What the DiT trains on: latents and text of clips of one length."""
    parts = [backbone.codec.encode(audio[i : i + 32]) for i in range(0, len(audio), 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    text = backbone.encode_text([clip.prompt for clip in clips])
    return LatentClips(mean, scale, text, clips[0].seconds)


def reconstruction(backbone: Backbone, count: int) -> dict[str, Any]:
    """How well the VAE keeps onsets and material, on clips that it has not seen."""
    clips, audio = render(count, first=10_000_000)
    decoded = backbone.codec.decode(backbone.codec.encode(audio)[0])[:, 0].numpy()
    rate = backbone.preset.sample_rate
    impacts = [np.array(clip.impacts) for clip in clips]
    sync = sync_score(impacts, [detect_onsets(wave, rate) for wave in decoded])
    same = [material_of(w, rate) == clip.material for w, clip in zip(decoded, clips, strict=True)]
    return {
        "clips": count,
        "f1_60ms": sync.f1_60ms,
        "mae_ms": sync.mae_ms,
        "material_accuracy": float(np.mean(same)),
    }


def set_latent_scale(backbone: Backbone, audio: Tensor, config_file: Path) -> None:
    """Scale latents to unit deviation, as the DiT's noise has, in model and configuration."""
    scale = float(backbone.codec.encode(audio)[0].std())
    config = backbone.preset.backbone_config
    config["model"]["pretransform"]["scale"] = backbone.model.pretransform.scale = round(scale, 4)
    config_file.write_text(json.dumps(config, indent=2) + "\n")
