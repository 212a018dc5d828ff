"""Makes the toy preset's weights: random text encoder and scorers, then V-JEPA2, VAE and DiT trained on clips.

Run by `foley demo --from-scratch`; recipes/toy/model_card.py turns the result into the weights that
are shipped. Sound and picture are rendered apart, from seeds that no corpus uses.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.backbone import Backbone, build_backbone
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import Preset, load_preset
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
from recipes.toy.random_weights import build_video_encoder, write_scorers, write_text_encoder
from recipes.toy.train_backbone import DitTraining, LatentClips, VaeTraining, train_dit, train_vae
from recipes.toy.train_video_encoder import VideoTraining, train_video

OnProgress = Callable[[str, int, int], None]  # what, done, total

FIRST_SEED = 500_000_000  # a corpus of seed s uses clips s * 1,000,000 + i
TRAINING_CLIPS = 1024
LENGTHS = {
    4.0: 1.0,
    2.0: 0.15,
    8.0: 0.15,
    12.0: 0.15,
}  # seconds: share of the clips that the DiT sees at this length
VIDEO_CLIPS, FIRST_VIDEO = (
    1200,
    210_000_000,
)  # clips that V-JEPA2 is trained on; the first, from FIRST_SEED on
CROP = 16 * 640  # audio samples that the VAE sees at once


def render(count: int, first: int, seconds: float = 4.0) -> tuple[list[ProceduralClip], Tensor]:
    """Clips and their sound [count, 1, S]."""
    clips = [sample_clip(FIRST_SEED + first + i, seconds) for i in range(count)]
    return clips, torch.from_numpy(np.stack([render_audio(clip) for clip in clips]))[:, None]


def render_pictures(count: int, frames: int) -> NDArray[np.uint8]:
    """Pictures [count, frames, SIZE, SIZE, 3] of clips of `frames` at the toy's rate."""
    pictures = np.empty((count, frames, SIZE, SIZE, 3), np.uint8)
    for i in range(count):
        pictures[i] = render_frames(sample_clip(FIRST_SEED + FIRST_VIDEO + i, frames / FPS))
    return pictures


def pretrained_video_encoder(
    preset: Preset, settings: VideoTraining, on_progress: OnProgress
) -> Any:
    """The preset's V-JEPA2, trained by itself on procedural pictures."""
    model = build_video_encoder(preset, settings.seed)
    pictures = render_pictures(VIDEO_CLIPS, preset.video.segment_frames)
    train_video(
        model, pictures, settings, lambda i, _: on_progress("train V-JEPA2", i + 1, settings.steps)
    )
    return model


def audio_crops(audio: Tensor, seed: int, batch: int = 8) -> Iterator[Tensor]:
    """Random crops [batch, 1, CROP] of sound [clips, 1, S], for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(audio), (batch,), generator=generator)
        starts = torch.randint(audio.shape[-1] - CROP, (batch,), generator=generator)
        yield torch.stack([audio[r, :, s : s + CROP] for r, s in zip(rows, starts, strict=True)])


def encode(
    backbone: Backbone, clips: list[ProceduralClip], audio: Tensor, seconds: float
) -> LatentClips:
    """What the DiT trains on: latents and text of clips of one length."""
    parts = [backbone.encode_audio(audio[i : i + 32]) for i in range(0, len(audio), 32)]
    mean, scale = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return LatentClips(mean, scale, backbone.encode_text([clip.prompt for clip in clips]), seconds)


def reconstruction(backbone: Backbone, count: int = 48) -> dict[str, Any]:
    """How well the VAE keeps onsets and material, on clips that it has not seen."""
    clips, audio = render(count, first=10_000_000)
    decoded = backbone.decode_audio(backbone.encode_audio(audio)[0])[:, 0].numpy()
    truth = [np.array(clip.impacts) for clip in clips]
    rate = backbone.preset.sample_rate
    sync = sync_score(truth, [detect_onsets(wave, rate) for wave in decoded])
    same = [
        material_of(wave, rate) == clip.material for wave, clip in zip(decoded, clips, strict=True)
    ]
    return {
        "clips": count,
        "f1_60ms": sync.f1_60ms,
        "mae_ms": sync.mae_ms,
        "material_accuracy": float(np.mean(same)),
    }


def set_latent_scale(backbone: Backbone, audio: Tensor, config_file: Path) -> None:
    """Scale latents to unit deviation, as the DiT's noise has, and write the configuration that says so."""
    scale = float(backbone.encode_audio(audio)[0].std())
    config = backbone.preset.backbone_config
    config["model"]["pretransform"]["scale"] = backbone.model.pretransform.scale = round(scale, 4)
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def make_toy_weights(
    folder: Path,
    on_progress: OnProgress,
    vae: VaeTraining | None = None,
    dit: DitTraining | None = None,
    video: VideoTraining | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write all weights of the toy preset but the bridge into `folder`.

    Returns what was measured on the way.
    """
    vae, dit, video = (
        vae or VaeTraining(seed=seed),
        dit or DitTraining(seed=seed),
        video or VideoTraining(seed=seed),
    )
    preset: Preset = load_preset("toy", weights=folder)
    write_text_encoder(preset, seed)
    write_scorers(preset, seed)
    started = time.process_time()
    pretrained_video_encoder(preset, video, on_progress).half().save_pretrained(
        preset.model("video")
    )
    figures: dict[str, Any] = {"video_cpu_seconds": round(time.process_time() - started)}
    torch.manual_seed(seed)
    backbone = Backbone(preset, build_backbone(preset))
    started = time.process_time()
    _, audio = render(TRAINING_CLIPS, first=0)
    autoencoder, vae_steps = backbone.model.pretransform.model, vae.steps + vae.decoder_steps
    train_vae(
        autoencoder,
        audio_crops(audio, seed),
        vae,
        lambda i, _: on_progress("train VAE", i + 1, vae_steps),
    )
    figures["vae_cpu_seconds"] = round(time.process_time() - started)
    set_latent_scale(backbone, audio[:64], folder / "model_config.json")
    save_weights(folder / "backbone.safetensors", backbone.model.state_dict(), torch.float16)
    figures["reconstruction"] = reconstruction(backbone)
    groups: list[LatentClips] = []
    for i, (seconds, share) in enumerate(LENGTHS.items()):
        clips, audio = render(int(TRAINING_CLIPS * share), first=(i + 1) * 100_000, seconds=seconds)
        groups.append(encode(backbone, clips, audio, seconds))
    started = time.process_time()
    train_dit(backbone, groups, dit, lambda i, _: on_progress("train DiT", i + 1, dit.steps))
    save_weights(folder / "backbone.safetensors", backbone.model.state_dict(), torch.float16)
    return figures | {
        "dit_cpu_seconds": round(time.process_time() - started),
        "machine": platform.processor(),
    }
