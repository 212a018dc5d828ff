"""How few sampling steps do in the toy.

Onset F1 of the shipped weights, on clips that they have not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model.foley import FoleyControl
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import Preset, load_preset
from model.sampling.request import SoundRequest
from model.types import Audio
from model.video_encoder import VideoEncoder
from pipeline.generation.options import sample_settings
from pipeline.procedural import ProceduralClip, render_frames, sample_clip

FIRST_SEED, CLIPS = 800_000_000, 48  # beyond those of any corpus and of all training


def toy_steps() -> Iterator[dict[str, Any]]:
    """Onset F1 at 60 ms by sampling steps; the last are the preset's own."""
    preset = load_preset("toy")
    foley = FoleyControl.from_pretrained(preset)
    clips, requests = clips_and_requests(preset)
    for steps in (4, 6, preset.sample.fast_steps, 10, preset.sample.steps):
        sounds = foley.generate(requests, sample_settings(preset, steps=steps))
        name = f"onset F1 at 60 ms, {steps} steps"
        value = f1_of(clips, sounds, preset.sample_rate)
        yield {"name": name, "value": value, "unit": "F1", "better": "higher"}


def clips_and_requests(preset: Preset) -> tuple[list[ProceduralClip], list[SoundRequest]]:
    """Clips that nothing was trained on, and the sounds that they ask for."""
    encoder = VideoEncoder.from_pretrained(preset)
    clips = [sample_clip(FIRST_SEED + i) for i in range(CLIPS)]
    requests = [
        SoundRequest(clip.prompt, clip.seconds, seed, encoder.encode(render_frames(clip)))
        for seed, clip in enumerate(clips)
    ]
    return clips, requests


def f1_of(clips: Sequence[ProceduralClip], sounds: Sequence[Audio], rate: int) -> float:
    """Onset F1 at 60 ms of sounds, by the known impacts of their clips."""
    onsets = [detect_onsets(sound.mean(0), rate) for sound in sounds]
    return round(sync_score([np.array(clip.impacts) for clip in clips], onsets).f1_60ms, 3)
