"""Sampling in less memory gives nearly the same sound, and leaves what it borrowed as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model import low_memory
from model.foley import FoleyControl
from model.presets.preset import ModelError, Preset
from model.sampling.request import SoundRequest

REQUESTS = [SoundRequest(prompt, 1.0, seed) for seed, prompt in enumerate(("glass", "wood"))]


def test_the_sound_is_nearly_the_same_of_a_quarter_of_the_matrices(preset: Preset) -> None:
    foley = FoleyControl.from_pretrained(preset)
    whole = foley.generate(REQUESTS)
    linear: Any = foley.backbone.dit.transformer.layers[0].ff.ff[2]
    before = linear.weight.detach().clone()
    foley.lower_memory()
    kept = linear.weight.qdata
    assert kept.dtype == torch.int8
    rows = before.abs().amax(1) / 127  # an independent rounding: a scale a row
    steps = (linear.weight.dequantize() - before).abs().amax(1) / rows
    assert float(steps.max()) < 0.6
    for a, b in zip(whole, foley.generate(REQUESTS), strict=True):
        assert 0 < np.abs(a - b).mean() < 0.1 * np.abs(a).mean()


def test_t5_is_let_go_while_the_dit_samples_and_read_again(preset: Preset) -> None:
    foley = FoleyControl.from_pretrained(preset)
    foley.low_memory = True  # the float matrices stay: the same sound to the bit
    there: list[bool] = []

    def look(done: int, steps: int) -> None:
        there.append("model" in vars(foley.backbone.text_encoder.conditioner))

    low = foley.generate(REQUESTS[:1], on_step=look)
    assert not any(there)
    again = foley.generate([SoundRequest("metal", 1.0, 0)])  # a prompt that is not known yet
    plain = FoleyControl.from_pretrained(preset)
    np.testing.assert_array_equal(low[0], plain.generate(REQUESTS[:1])[0])
    np.testing.assert_array_equal(again[0], plain.generate([SoundRequest("metal", 1.0, 0)])[0])


def test_without_torchao_it_says_what_to_do(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_memory, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="uv sync --extra low-memory"):
        FoleyControl.from_pretrained(preset).lower_memory()
