"""How few sampling steps do in the toy.

Onset F1 of the shipped weights, on clips that they have not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from model.foley import FoleyControl, SoundRequest
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import load_preset
from model.video_encoder import VideoEncoder
from pipeline.generation.requests import sample_settings
from pipeline.procedural import render_frames, sample_clip

FIRST_SEED, CLIPS = 800_000_000, 48  # beyond those of any corpus and of all training


def toy_steps() -> Iterator[dict[str, Any]]:
    """Onset F1 at 60 ms by sampling steps; the last are the preset's own."""
    preset = load_preset("toy")
    foley, encoder = FoleyControl.from_pretrained(preset), VideoEncoder.from_pretrained(preset)
    clips = [sample_clip(FIRST_SEED + i) for i in range(CLIPS)]
    requests = [
        SoundRequest(clip.prompt, clip.seconds, seed, encoder.encode(render_frames(clip)))
        for seed, clip in enumerate(clips)
    ]
    for steps in (4, 6, preset.sample.fast_steps, 10, preset.sample.steps):
        sounds = foley.generate(requests, sample_settings(preset, steps=steps))
        onsets = [detect_onsets(sound.mean(0), preset.sample_rate) for sound in sounds]
        score = sync_score([np.array(clip.impacts) for clip in clips], onsets)
        name = f"onset F1 at 60 ms, {steps} steps"
        yield {"name": name, "value": round(score.f1_60ms, 3), "unit": "F1", "better": "higher"}
