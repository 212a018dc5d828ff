"""Every step of the toy's recipe runs, and what it writes loads as a user's weights do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from model.backbone import Backbone
from model.foley import read_bridge_facts
from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import CONFIGS, load_preset
from model.video_encoder import VideoEncoder
from pipeline.curation.policy import load_policy
from pipeline.procedural import render_audio, sample_clip
from recipes.toy.__main__ import FIGURES, cli
from recipes.toy.bridge import take_bridge
from recipes.toy.model_card import model_card

pytestmark = pytest.mark.slow
SHIPPED = CONFIGS / "toy" / "weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all steps but the bridge's write, each run by itself with a few iterations."""
    folder = tmp_path_factory.mktemp("recipe") / "build"
    for step in ("video-encoder", "backbone", "networks", "policy"):
        done = CliRunner().invoke(cli, [step, str(folder), "--quick"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return folder


def test_what_the_steps_write_loads_and_works(folder: Path) -> None:
    preset = load_preset("toy", weights=folder)
    sound = render_audio(sample_clip(0))
    assert VideoEncoder.from_pretrained(preset).model is not None
    mean, _ = Backbone.from_pretrained(preset).codec.encode(torch.from_numpy(sound)[None, None])
    assert mean.shape[0] == 1
    assert set(Audiobox.from_pretrained(preset).score([sound])[0]) == {"pq", "pc", "ce", "cu"}
    for kind in (ImageBind, Cnn14, Passt, VGGish, Synchformer):
        assert kind.from_pretrained(preset).hear([sound])[0].features.size


def test_the_policy_step_changes_thresholds_alone(folder: Path) -> None:
    before, after = load_policy("toy"), load_policy(str(folder / "toy.toml"))
    assert after.version == before.version + 1
    assert [g.name for g in after.gates] == [g.name for g in before.gates]


def test_the_card_shows_what_the_steps_measured(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "demo"
    trained = home / "checkpoints" / "one"
    trained.mkdir(parents=True)
    shutil.copy(SHIPPED / "bridge.safetensors", trained)
    demo = json.loads(FIGURES.read_text())["demo"]
    demo |= {"machine": {"cores": 3, "processor": "a test"}, "versions": {"torch": "9.9"}}
    (home / "reports").mkdir()
    (home / "reports" / "results.json").write_text(json.dumps(demo | {"checkpoint": "one"}))
    take_bridge(folder, home)
    done = CliRunner().invoke(cli, ["card", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    card = (folder / "MODEL_CARD.md").read_text()
    assert "on 3 cores of a test, with torch 9.9" in card
    measured = json.loads((folder / "figures.json").read_text())["networks"]
    assert f"Synchformer, mean error in s: {measured['Synchformer, mean error in s']:.3f}" in card
    shipped, taken = (path / "bridge.safetensors" for path in (SHIPPED, folder))
    assert read_bridge_facts(taken) == read_bridge_facts(shipped)
    assert taken.stat().st_size == shipped.stat().st_size


def test_the_card_of_the_shipped_weights_is_what_the_step_writes() -> None:
    card = model_card(json.loads(FIGURES.read_text()), SHIPPED)
    assert (SHIPPED / "MODEL_CARD.md").read_text() == card
