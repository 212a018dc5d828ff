"""What 8-bit matrices cost the toy: onset F1 on unseen clips, and how sounds differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.foley import FoleyControl
from model.presets.preset import load_preset
from model.types import Audio
from tests.benchmarks.figures import Figure, figure
from tests.benchmarks.toy_steps import clips_and_requests, f1_of


def low_memory() -> Iterator[Figure]:
    """F1 at 60 ms in float32 and in 8 bits, and the mean difference of their samples."""
    preset = load_preset("toy")
    foley = FoleyControl.from_pretrained(preset)
    clips, requests = clips_and_requests(preset)
    whole = foley.generate(requests)
    yield figure("onset F1 at 60 ms, float32", f1_of(clips, whole, preset.sample_rate), "F1")
    foley.lower_memory()
    eighth = foley.generate(requests)
    yield figure("onset F1 at 60 ms, 8 bits", f1_of(clips, eighth, preset.sample_rate), "F1")
    apart = float(np.mean([_apart(a, b) for a, b in zip(whole, eighth, strict=True)]))
    yield figure("difference of samples, of their mean size", round(apart, 4), "1")


def _apart(a: Audio, b: Audio) -> float:
    return float(np.abs(a - b).mean() / np.abs(a).mean())
