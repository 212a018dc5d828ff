"""Weights that do not fit their model are refused, and what is wrong with them is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.hub.check import check, parameters
from model.presets.preset import load_preset
from model.weights.load import WeightsError
from tests.flows.small_models import FILES, TOY, write_models, write_preset
from tests.foley.commands import foley, one_line_error

Change = Callable[[dict[str, Tensor], str], str]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a preset for the models below, which come from nowhere."""
    folder = tmp_path_factory.mktemp("tiny")
    write_preset(folder, "https://example.org")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models as a person may have put them there; not to be changed."""
    folder = tmp_path_factory.mktemp("store")
    write_models(folder)
    return folder


def take_away(weights: dict[str, Tensor], key: str) -> str:
    del weights[key]
    return f"missing {key}"


def add(weights: dict[str, Tensor], key: str) -> str:
    weights[f"{key}.more"] = torch.zeros(1)
    return f"unexpected {key}.more"


def reshape(weights: dict[str, Tensor], key: str) -> str:
    shape = tuple(weights[key].shape)
    weights[key] = torch.zeros(7, 7, 7)
    return f"{key} has shape (7, 7, 7), the model wants {shape}"


def spoil(path: Path, change: Change) -> str:
    """Change one key of a weights file; returns what is to be said of it."""
    weights = torch.load(path) if path.suffix == ".pth" else load_file(path)
    key = next((key for key in weights if "block" in key or "layer" in key), min(weights))
    words = change(weights, key)
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path, {"format": "pt"})
    return words


@pytest.mark.parametrize("change", [take_away, add, reshape])
def test_every_key_that_does_not_fit_is_named(
    change: Change, store: Path, preset: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    wrong = {name: spoil(tmp_path / file, change) for name, file in FILES.items()}
    found = check(load_preset(str(preset), tmp_path))
    assert {one.model: one.state for one in found} == dict.fromkeys(FILES, "does not fit")
    assert [wrong[one.model] in str(one.problem) for one in found] == [True] * len(FILES), found


def test_a_checkpoint_with_code_in_it_is_refused(preset: Path, tmp_path: Path) -> None:
    path = tmp_path / "imagebind/imagebind_huge.pth"
    path.parent.mkdir()
    torch.save({"weights": Path("code")}, path)
    with pytest.raises(WeightsError, match=f"cannot read weights {path}"):
        parameters(load_preset(str(preset), tmp_path), "imagebind")


@pytest.mark.slow
def test_generate_loads_nothing_that_its_bridge_was_not_trained_on(
    store: Path, preset: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "store")
    spoil(tmp_path / "store/vjepa2/model.safetensors", take_away)  # seen if it were loaded
    from pipeline.procedural import sample_clip, write_clip

    write_clip(sample_clip(1, 1.0), tmp_path / "clip.mp4")
    arguments = ("--prompt", "wood", "--out", tmp_path / "out.mp4", "--weights", tmp_path / "store")
    bridge = ("--checkpoint", TOY / "bridge.safetensors")
    message = one_line_error(
        foley("generate", tmp_path / "clip.mp4", *arguments, *bridge, "--preset", preset)
    )
    assert "bridge.safetensors was trained on backbone" in message
