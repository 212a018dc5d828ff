"""Presets: everything in which the toy and the full-size system differ, as data.

A preset is a folder with `preset.toml` (read into `Preset`, its sections into those of
model/presets/settings.py), `backbone.json` (the model configuration in stable-audio-tools' own
format) and, where they may be shipped, the weights. Code never asks which preset it runs.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError

from model.presets.settings import (
    AblationSettings,
    BridgeSettings,
    SampleSettings,
    ScoreSettings,
    Settings,
    TrainSettings,
    VideoSettings,
    WindowSettings,
)

CONFIGS = Path(__file__).parent


class ModelError(ValueError):
    """A model, its weights or its settings cannot be used.

    The message says which and what to do.
    """


class ModelFiles(Settings):
    """Where a model lies in the folder of weights, and where it is published."""

    path: str = Field(
        description="its weights file or transformers folder: beside the preset.toml, else in the folder of weights"
    )
    repo: str | None = Field(default=None, description="its repository on the Hugging Face hub")
    revision: str | None = Field(
        default=None, description="commit, tag or branch; none: what the first fetch found on main"
    )
    files: tuple[str, ...] = Field(
        default=(), description="names or patterns of the repository's files that are needed"
    )
    url: str | None = Field(
        default=None, description="address of its file, where it is not on the hub"
    )
    sha256: str | None = Field(
        default=None, description="hash of the file at `url`, where it is known"
    )
    licence: str = "made by this project"
    page: str | None = Field(
        default=None, description="page that tells of it; none: that of the repository"
    )
    gated: bool = Field(
        default=False, description="whether its licence must be accepted on the page first"
    )


class Models(Settings):
    """The models of a preset.

    The defaults are the layout of the weights that this project ships.
    """

    backbone: ModelFiles = ModelFiles(path="backbone.safetensors")
    text: ModelFiles = ModelFiles(path="t5")
    video: ModelFiles = ModelFiles(path="vjepa2")
    imagebind: ModelFiles = ModelFiles(path="imagebind.safetensors")
    audiobox: ModelFiles = ModelFiles(path="audiobox.safetensors")
    panns: ModelFiles = ModelFiles(path="panns.safetensors")
    passt: ModelFiles = ModelFiles(path="passt.safetensors")
    vggish: ModelFiles = ModelFiles(path="vggish.safetensors")
    synchformer: ModelFiles = ModelFiles(path="synchformer.safetensors")


class Preset(Settings):
    """One size of the whole system. `folder` holds its configuration, `weights` its weights."""

    name: str
    folder: Path
    weights: Path
    max_seconds: float = Field(
        12.0, description="longest stretch of a clip that training and evaluation use"
    )
    models: Models = Models()
    video: VideoSettings
    bridge: BridgeSettings
    train: TrainSettings
    sample: SampleSettings
    window: WindowSettings = WindowSettings()
    ablation: AblationSettings = AblationSettings()
    imagebind: dict[str, Any] = Field(description="arguments of ImageBindModel")
    imagebind_views: dict[str, Any] = Field(description="windows that ImageBind looks at in a clip")
    scores: ScoreSettings = ScoreSettings()
    stages: tuple[str, ...] = Field(
        default=(), description="scores of one's own, each as package.module:Class"
    )
    audiobox: dict[str, Any] = Field(
        default_factory=dict, description="what differs from WavLM base in Audiobox"
    )
    evaluation_seconds: float = Field(
        8.0, gt=0, description="what evaluation hears and sees of a clip, s"
    )
    evaluation: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="what differs from the published evaluation networks, by network",
    )
    untrained: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="architectures of the toy's encoders"
    )

    def model(self, name: str) -> Path:
        """The weights file, or the folder, of one of `models`."""
        return self.weights / str(getattr(self.models, name).path)

    @property
    def backbone_config_file(self) -> Path:
        """`model_config.json` beside the weights, as Stable Audio Open is published, else the preset's own."""
        published = self.model("backbone").parent / "model_config.json"
        return published if published.is_file() else self.folder / "backbone.json"

    @property
    def backbone_config(self) -> dict[str, Any]:
        """The backbone's configuration as stable-audio-tools reads it."""
        config: dict[str, Any] = json.loads(self.backbone_config_file.read_text())
        return config

    @property
    def sample_rate(self) -> int:
        """Samples a second of the backbone's audio."""
        return int(self.backbone_config["sample_rate"])

    @property
    def audio_channels(self) -> int:
        """Channels of the backbone's audio."""
        return int(self.backbone_config["audio_channels"])

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples a latent frame."""
        return int(self.backbone_config["model"]["pretransform"]["config"]["downsampling_ratio"])

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.backbone_config["model"]["io_channels"])

    @property
    def text_width(self) -> int:
        """Width of the text tokens that the DiT attends to."""
        return int(self.backbone_config["model"]["conditioning"]["cond_dim"])

    @property
    def latent_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.downsampling_ratio


def load_preset(name: str, weights: Path | None = None) -> Preset:
    """The preset `name`, or that of a folder holding a `preset.toml`; `weights` takes the place of its own weights.

    A preset.toml with `base = NAME` says only what differs from that preset (docs/swapping.md).
    Raises ModelError if there is no such preset or a setting in it is wrong.
    """
    folder = CONFIGS / name if (CONFIGS / name).is_dir() else Path(name)
    file = folder / "preset.toml"
    if not file.is_file():
        known = ", ".join(sorted(p.name for p in CONFIGS.iterdir() if p.is_dir()))
        raise ModelError(
            f"no preset {name!r}: choose one of {known}, or a folder that holds a preset.toml"
        )
    try:
        values = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{file} is not TOML: {error}") from None
    _find_beside(values, folder)
    own, store = folder / "weights", model_store()
    if base := values.pop("base", None):
        found = load_preset(base)
        values = _merged(
            found.model_dump(exclude={"weights"}, exclude_unset=True),
            {"name": folder.name} | values,
        )
        store = found.weights
    if (folder / "backbone.json").is_file() or not base:
        values["folder"] = folder
    values["weights"] = weights or (own if own.is_dir() else store)
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{file}: {where}: {first['msg']}") from None


def model_store() -> Path:
    """Where fetched models lie if no folder is named: `models` in FOLEY_HOME, or in ~/.foley."""
    return Path(os.environ.get("FOLEY_HOME") or "~/.foley").expanduser().absolute() / "models"


def _find_beside(values: dict[str, Any], folder: Path) -> None:
    """Put the folder before models and modules of stages that lie beside the preset.toml."""
    models: Any = values.get("models")
    for files in models.values() if isinstance(models, dict) else []:
        path = files.get("path") if isinstance(files, dict) else None
        if isinstance(path, str) and (folder / path).exists():
            files["path"] = str((folder / path).absolute())
    if "stages" in values:
        values["stages"] = stages_beside(values["stages"], folder)


def stages_beside(stages: Any, folder: Path) -> Any:
    """Names of stages, with the folder before those whose module lies in it (beside a file)."""
    if not isinstance(stages, list):
        return stages  # wrong, and refused as such by whoever reads the file
    packages = [str(stage).partition(":")[0].partition(".")[0] for stage in stages]
    return [
        f"{folder.absolute()}/{stage}" if _holds(folder, package) else stage
        for stage, package in zip(stages, packages, strict=True)
    ]


def _holds(folder: Path, package: str) -> bool:
    return (folder / f"{package}.py").is_file() or (folder / package / "__init__.py").is_file()


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, section by section.

    A model is replaced as a whole, since its files belong together.
    """
    found = dict(base)
    for key, value in changes.items():
        if key == "models":
            found[key] = base.get(key, {}) | value
        elif (
            isinstance(value, dict)
            and isinstance(base.get(key), dict)
            and key not in ("imagebind", "audiobox")
        ):
            found[key] = _merged(base[key], cast("dict[str, Any]", value))
        else:
            found[key] = value
    return found
