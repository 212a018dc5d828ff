"""Every step of the recipe of worlds runs, and what it writes makes stereo sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model.backbone import Backbone, bare_backbone
from model.foley import FoleyControl
from model.presets.preset import CONFIGS, load_preset
from model.sampling.request import SoundRequest
from recipes.world.__main__ import FIGURES, STEPS, cli
from recipes.world.model_card import model_card
from recipes.world.warm_start import start_from_toy

SHIPPED = CONFIGS / "world" / "weights"


@pytest.mark.slow
def test_the_steps_make_weights_that_make_stereo_sound(tmp_path: Path) -> None:
    for step in STEPS:
        done = CliRunner().invoke(cli, [step, str(tmp_path), "--quick"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    preset = load_preset("world", weights=tmp_path)
    request = SoundRequest("a metal ball", 4.0, 0, torch.randn(32, 1, 96))
    [sound] = FoleyControl.from_pretrained(preset).generate([request])
    assert sound.shape == (2, 64_000)
    assert np.abs(sound).max() > 0
    card = (tmp_path / "MODEL_CARD.md").read_text()
    measured = json.loads((tmp_path / "figures.json").read_text())
    assert f"VAE, {measured['cpu_seconds']['VAE']} CPU-s" in card


def test_the_shipped_card_is_that_of_the_recipe() -> None:
    figures = json.loads(FIGURES.read_text())
    assert (SHIPPED / "MODEL_CARD.md").read_text() == model_card(figures, SHIPPED)


def test_the_vae_starts_as_the_toys_on_both_channels() -> None:
    """Of the same sound in both channels: what the toy makes of it, but for the new latents."""
    preset, toy = load_preset("world"), load_preset("toy")
    stereo = bare_backbone(preset).pretransform.model
    start_from_toy(stereo)
    mono = Backbone.from_pretrained(toy).model.pretransform.model
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 6400))).float() * 0.1
    both = sound.repeat(1, 2, 1)
    with torch.no_grad():
        one = mono.encoder(mono.pretransform.encode(sound))
        two = stereo.encoder(stereo.pretransform.encode(both))
        latents = stereo.latent_dim
        assert torch.allclose(two[:, :16], one[:, :16], atol=1e-4)
        assert torch.allclose(two[:, latents : latents + 16], one[:, 16:], atol=1e-4)
        silent = torch.cat([one[:, :16], torch.zeros(1, latents - 16, one.shape[-1])], 1)
        made = stereo.decode(silent)
        wanted = mono.decode(one[:, :16])
    assert made.shape == (1, 2, 6400)
    assert torch.corrcoef(torch.stack([made[0, 0], wanted[0, 0]]))[0, 1] > 0.95
    assert torch.allclose(made[0, 0], made[0, 1], atol=1e-5)
