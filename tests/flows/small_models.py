"""Models of the toy's size in the layouts of published ones, with a preset of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.presets.preset import CONFIGS
from model.weights.files import file_sha256

TOY = CONFIGS / "toy" / "weights"
PRESET = """
base = "toy"

[models.backbone]
path = "sao/model.safetensors"
repo = "tiny/sao"
files = ["model.safetensors", "model_config.json"]
licence = "Community Licence"
gated = true

[models.text]
path = "t5-base"
repo = "tiny/t5"
files = ["*.json", "model.safetensors"]

[models.video]
path = "vjepa2"
repo = "tiny/vjepa2"
files = ["*.json", "model.safetensors"]

[models.imagebind]
path = "imagebind/imagebind_huge.pth"
url = "{url}/imagebind/imagebind_huge.pth"

[models.audiobox]
path = "audiobox/model.safetensors"
repo = "tiny/audiobox"
"""
NETWORKS = ("panns", "passt", "vggish", "synchformer")
NETWORK = """
[models.{name}]
path = "{name}.safetensors"
url = "{url}/releases/{name}"
sha256 = "{sha256}"
licence = "unknown"
page = "https://example.org/{name}"
"""
FILES = {
    "backbone": "sao/model.safetensors",
    "text": "t5-base/model.safetensors",
    "video": "vjepa2/model.safetensors",
    "imagebind": "imagebind/imagebind_huge.pth",
    "audiobox": "audiobox/model.safetensors",
    **{name: f"{name}.safetensors" for name in NETWORKS},
}


def write_preset(folder: Path, url: str) -> None:
    """The preset above, whose models are at `url`, as a folder that `--preset` takes."""
    networks = [
        NETWORK.format(name=name, url=url, sha256=file_sha256(TOY / f"{name}.safetensors"))
        for name in NETWORKS
    ]
    (folder / "preset.toml").write_text("".join([PRESET.replace("{url}", url), *networks]))


def write_models(folder: Path) -> None:
    """The models' files where the preset looks for them, in an empty folder."""
    for path in FILES.values():
        (folder / path).parent.mkdir(exist_ok=True)
    shutil.copytree(TOY / "t5", folder / "t5-base", dirs_exist_ok=True)
    shutil.copytree(TOY / "vjepa2", folder / "vjepa2", dirs_exist_ok=True)
    shutil.copy(TOY / "backbone.safetensors", folder / FILES["backbone"])
    shutil.copy(TOY / "model_config.json", folder / "sao")
    shutil.copy(TOY / "audiobox.safetensors", folder / FILES["audiobox"])
    shutil.copy(TOY / "audiobox.json", folder / "audiobox" / "config.json")
    torch.save(load_file(TOY / "imagebind.safetensors"), folder / FILES["imagebind"])
    for name in NETWORKS:
        shutil.copy(TOY / f"{name}.safetensors", folder)
