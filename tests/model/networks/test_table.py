"""networks.toml: a network that is added there is fetched, checked and evaluated with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.hub.check import check
from model.networks.base import EvaluationNetwork
from model.presets.networks import NETWORKS, Network
from model.presets.preset import ModelError, load_preset
from model.types import Audio
from model.weights.load import save_weights
from pipeline.evaluation.network_stages import sound_stages, video_stages
from pipeline.media import write_wav
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Passed


def test_a_revision_does_not_cost_the_import_of_transformers() -> None:
    """A curation asks for it in each process, also where nothing is left to do."""
    code = (
        "import sys; from model.presets.networks import NETWORKS; "
        "[network.load_class() for network in NETWORKS.values()]; "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Level(EvaluationNetwork):
    """A network in one file: the mean square of a sound, times a weight."""

    name = "level"
    sample_rate = 8000

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))

    def prepare(self, audio: Audio) -> Tensor:
        return torch.from_numpy(audio).square().mean()[None]

    def forward(self, prepared: Tensor) -> tuple[Tensor, None]:
        return (prepared * self.gain)[:, None], None


@pytest.fixture
def level(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a preset with such a network, whose section is added to the table."""
    section = {
        "title": "Level", "class": f"{__name__}:Level", "embeds": ["sound"], "path": "level.pth",
        "url": "https://example.org/level.pth",
    }  # fmt: skip
    monkeypatch.setitem(NETWORKS, "level", Network.model_validate(section))
    (tmp_path / "preset.toml").write_text(
        'base = "toy"\nnetworks = ["panns", "level"]\n[evaluation.level]\nwidth = 1\n'
        '[models.level]\npath = "level.safetensors"\n'
    )
    save_weights(tmp_path / "level.safetensors", {"gain": torch.tensor([2.0])})
    return tmp_path


def test_a_new_network_is_a_class_and_a_section(level: Path) -> None:
    preset = load_preset(str(level))
    state = next(one for one in check(preset) if one.model == "level")
    assert (state.state, state.parameters, state.files.licence) == ("local", 1, "unknown")
    stages = sound_stages(preset)
    assert [stage.name for stage in stages] == ["sound", "hear_panns", "hear_level"]
    assert video_stages(preset) == []
    assert (
        fingerprints(stages)["hear_panns"]
        == fingerprints(sound_stages(load_preset("toy")))["hear_panns"]
    )
    write_wav(level / "a.wav", np.full(8000, 0.5, np.float32) * np.resize([1, -1], 8000), 8000)
    stages[-1].setup()
    (outcome,) = stages[-1].process([{"clip_id": "a", "path": str(level / "a.wav")}])
    assert isinstance(outcome, Passed)
    found = np.frombuffer(outcome.columns["hear_level_features"], "<f4")
    assert found == pytest.approx([0.5], abs=1e-3)


def test_presets_take_it_as_published_unless_they_say_otherwise(level: Path) -> None:
    assert load_preset("paper").models["level"].source == "https://example.org/level.pth"
    assert "level" not in load_preset("toy").models
    text = (level / "preset.toml").read_text()
    for wrong, message in (
        (text.replace("width", "depth"), r"evaluation\.level: .*depth"),
        (text.replace('"level"]', '"clap"]'), "no model 'clap': choose from backbone, .*level"),
    ):
        (level / "preset.toml").write_text(wrong)
        with pytest.raises(ModelError, match=message):
            Level.from_pretrained(load_preset(str(level)))


def test_every_network_of_the_table_has_its_class_and_no_licence_is_made_up() -> None:
    for name, network in NETWORKS.items():
        assert network.load_class().name == name
    toy, paper = load_preset("toy"), load_preset("paper")
    assert {files.licence for files in toy.models.values()} == {"made by this project"}
    assert all(files.source and files.licence for files in paper.models.values())
    assert "made by this project" not in {files.licence for files in paper.models.values()}
