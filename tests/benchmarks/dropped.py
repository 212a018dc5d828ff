"""What a bridge does where it gets no video, no text or neither, beside the bare backbone.

The shipped toy bridge was trained on 1% of clips without both, which is what joint guidance leaves
out. v-loss of 48 unseen clips at four noises each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from model.backbone import Backbone
from model.bridge import VideoBatch
from model.foley import FoleyControl
from model.presets.preset import load_preset
from model.sampling.diffusion import diffuse
from model.training.feature_batch import FeatureBatch
from model.training.loss import clip_losses, stratified_times
from model.video_encoder import VideoEncoder
from pipeline.procedural import render_audio, render_frames, sample_clip
from tests.benchmarks.figures import Figure, figure

CLIPS, SIZE, NOISES, FIRST = 48, 16, 4, 900_000_000


@torch.no_grad()
def dropped() -> Iterator[Figure]:
    """v-loss with and without text, with own video and with none, and of the bare backbone."""
    preset = load_preset("toy")
    foley, encoder = FoleyControl.from_pretrained(preset), VideoEncoder.from_pretrained(preset)
    totals: dict[str, float] = {}
    for begin in range(0, CLIPS, SIZE):
        batch = _batch(foley.backbone, encoder, begin)
        for noise in range(NOISES):
            for name, loss in _losses(foley, batch, begin * NOISES + noise).items():
                totals[name] = totals.get(name, 0.0) + loss * SIZE / (CLIPS * NOISES)
    for name, value in totals.items():
        yield figure(f"v-loss, {name}", round(value, 4), "v-loss")


def _batch(backbone: Backbone, encoder: VideoEncoder, begin: int) -> FeatureBatch:
    """Clips of 4 s that nothing was trained on."""
    clips = [sample_clip(FIRST + begin + i) for i in range(SIZE)]
    sounds = torch.stack([torch.from_numpy(render_audio(clip))[None] for clip in clips])
    mean, scale = backbone.codec.encode(sounds)
    video = torch.stack([encoder.encode(render_frames(clip)) for clip in clips])
    return FeatureBatch(
        video=video,
        frames=torch.full((SIZE,), video.shape[1]),
        latent_mean=mean,
        latent_scale=scale,
        latents=torch.full((SIZE,), mean.shape[-1]),
        text=backbone.encode_text([clip.prompt for clip in clips]),
        seconds=[clip.seconds for clip in clips],
    )


def _losses(foley: FoleyControl, batch: FeatureBatch, seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    t = stratified_times(SIZE, generator)
    noise = torch.randn(batch.latent_mean.shape, generator=generator)
    latents = diffuse(batch.latent_mean, t, noise, foley.backbone.objective)
    none = torch.zeros(SIZE, dtype=torch.bool)
    videos = {"own video": VideoBatch(batch.video), "no video": VideoBatch(batch.video, seen=none)}
    found: dict[str, float] = {}
    for text, untold in (("text", None), ("no text", ~none)):
        found[f"bare backbone, {text}"] = float(
            clip_losses(foley.backbone, batch, latents, untold=untold)[0]
        )
        for name, video in videos.items():
            with foley.bridge.conditioned_on(video, noise.shape[-1]):
                loss = clip_losses(foley.backbone, batch, latents, untold=untold)[0]
            found[f"{name}, {text}"] = float(loss)
    return found
