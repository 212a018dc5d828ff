"""How good the sound of the shipped toy weights is, held to committed figures clip by clip.

Held-out procedural clips, rendered in memory, go the way of `foley generate`: the preset's video
encoder, its bridge and its sampling. A clip's figure is the F1 at 60 ms of the sound's onsets
against its impacts, which are known. After new weights, or a change that is meant to sound better:

    uv run python -m tests.model.test_shipped_quality
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from model.foley import SoundRequest
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import load_preset
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import sample_settings
from pipeline.procedural import render_frames, sample_clip

FIGURES = Path(__file__).parent / "shipped_quality.json"
README = Path(__file__).parents[2] / "README.md"
FIRST_SEED, CLIPS = 600_000_000, 48  # of no corpus, no training and no benchmark
WORSE = -0.03  # what the mean may lose between machines: mistakes that matter cost more


def shipped_quality() -> list[float]:
    """F1 at 60 ms of each clip."""
    preset = load_preset("toy")
    generator = SoundGenerator(preset, device="cpu")
    clips = [sample_clip(FIRST_SEED + i) for i in range(CLIPS)]
    requests = [
        SoundRequest(clip.prompt, clip.seconds, seed, generator.encoder.encode(render_frames(clip)))
        for seed, clip in enumerate(clips)
    ]
    sounds = generator.foley.generate(requests, sample_settings(preset))
    onsets = [detect_onsets(sound.mean(0), preset.sample_rate) for sound in sounds]
    return [
        sync_score([np.array(clip.impacts)], [found]).f1_60ms
        for clip, found in zip(clips, onsets, strict=True)
    ]


def interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean over clips."""
    rows = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[rows].mean(1), (2.5, 97.5))
    return float(low), float(high)


@pytest.mark.slow
def test_the_shipped_weights_sound_as_good_as_committed_and_as_the_readme_says() -> None:
    committed, heard = np.array(json.loads(FIGURES.read_text())), np.array(shipped_quality())
    assert interval_of_mean(heard - committed)[0] > WORSE
    low, high = interval_of_mean(heard)
    claimed = re.search(r"^\| its own video \| ([\d.]+) \|", README.read_text(), re.MULTILINE)
    assert claimed, "the README's table has a row for a clip's own video"
    assert low <= float(claimed[1]) <= high


if __name__ == "__main__":
    FIGURES.write_text(json.dumps([round(value, 4) for value in shipped_quality()]) + "\n")
