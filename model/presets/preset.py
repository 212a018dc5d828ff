"""Presets: everything in which the toy and the full-size system differ, as data.

A preset is a folder with `preset.toml` (read into `Preset`, its sections into those of
settings.py), `backbone.json` (the model configuration in stable-audio-tools' own format) and, where
they may be shipped, the weights. Code never asks which preset it runs.
"""

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from model.presets.networks import NETWORKS, ModelFiles
from model.presets.settings import (
    AblationSettings,
    BridgeSettings,
    ImageBindViews,
    ModelError,
    PrecisionSettings,
    SampleSettings,
    ScoreSettings,
    Settings,
    TrainingStage,
    TrainSettings,
    VideoSettings,
    WindowSettings,
)

CONFIGS = Path(__file__).parent
_WHOLE = ("imagebind", "audiobox")  # sections that a preset replaces as a whole


class Preset(Settings):
    """One size of the whole system. `folder` holds its configuration, `weights` its weights."""

    name: str
    folder: Path
    weights: Path
    max_seconds: float = 12.0  # longest stretch of a clip that training and evaluation use
    models: dict[str, ModelFiles]  # backbone, text, video, and networks that are not as published
    # that score clips and sounds: by default all of networks.toml
    networks: tuple[str, ...] = Field(default_factory=lambda: tuple(NETWORKS))
    video: VideoSettings
    bridge: BridgeSettings
    train: TrainSettings
    recipe: dict[str, TrainingStage] = Field(default_factory=dict)  # `foley train --stages` by name
    sample: SampleSettings
    window: WindowSettings = WindowSettings()
    ablation: AblationSettings = AblationSettings()
    imagebind: dict[str, Any]  # arguments of ImageBindModel
    imagebind_views: ImageBindViews = ImageBindViews()
    scores: ScoreSettings = ScoreSettings()
    precision: PrecisionSettings = PrecisionSettings()
    stages: tuple[str, ...] = ()  # scores of one's own, each as package.module:Class
    # what differs from WavLM base in Audiobox
    audiobox: dict[str, Any] = Field(default_factory=dict)
    evaluation_seconds: float = Field(8.0, gt=0)  # what evaluation hears and sees of a clip
    # arguments of networks that are not as published
    evaluation: dict[str, dict[str, Any]] = Field(default_factory=dict)
    untrained: dict[str, dict[str, Any]] = Field(default_factory=dict)  # the toy's encoders

    @model_validator(mode="before")
    @classmethod
    def _add_published(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Networks whose files the preset does not name are those that their authors publish."""
        models, networks = values.get("models", {}), values.get("networks", tuple(NETWORKS))
        names = ("backbone", "text", "video", *NETWORKS)
        for name in (*networks, *models):
            if name not in names:
                raise ValueError(f"no model {name!r}: choose from {', '.join(names)}")
        files = {name: NETWORKS[name].published for name in networks} | models
        return values | {"models": {name: files[name] for name in names if name in files}}

    @model_validator(mode="after")
    def _recipe_fits(self) -> Self:
        for name in self.recipe:
            try:
                self.training_stage(name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, ("recipe", name, "train", *first["loc"])))
                raise ValueError(f"{where}: {first['msg']}") from None
        return self

    def training_stage(self, name: str) -> tuple[Self, str | None]:
        """The preset as one stage of the recipe trains, and the subset that it trains on.

        Raises ModelError where the recipe has no such stage.
        """
        if name not in self.recipe:
            names = ", ".join(self.recipe) or "none"
            raise ModelError(f"preset {self.name} has no training stage {name!r}: it has {names}")
        stage = self.recipe[name]
        train = TrainSettings.model_validate(self.train.model_dump() | stage.train)
        return self.model_copy(update={"train": train}), stage.subset

    def model(self, name: str) -> Path:
        """The weights file, or the folder, of one of `models`; raises ModelError for another."""
        if name not in self.models:
            raise ModelError(
                f"preset {self.name} has no model {name!r}: name it in [models.{name}]"
            )
        return self.weights / self.models[name].path

    @property
    def backbone_config_file(self) -> Path:
        """`model_config.json` beside the weights, as it is published, else the preset's own."""
        published = self.model("backbone").parent / "model_config.json"
        return published if published.is_file() else self.folder / "backbone.json"

    @property
    def backbone_config(self) -> dict[str, Any]:
        """The backbone's configuration as stable-audio-tools reads it."""
        config: dict[str, object] = json.loads(self.backbone_config_file.read_text())
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


def load_preset(name: str, weights: Path | None = None, settings: Sequence[str] = ()) -> Preset:
    """The preset of a name, or of a folder that holds a `preset.toml`.

    A preset.toml with `base = NAME` says only what differs from that preset (docs/extending.md).

    Args:
        name: "toy", "paper", or a folder.
        weights: Folder of weights to take in place of the preset's own.
        settings: What differs, each as section.name=value, such as train.batch_size=24.

    Raises:
        ModelError: There is no such preset, or a setting in it is wrong.
    """
    folder = CONFIGS / name if (CONFIGS / name).is_dir() else Path(name)
    file = folder / "preset.toml"
    if not file.is_file():
        names = ", ".join(sorted(path.parent.name for path in CONFIGS.glob("*/preset.toml")))
        raise ModelError(
            f"no preset {name!r}: choose one of {names}, or a folder that holds a preset.toml"
        )
    try:
        values = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{file} is not TOML: {error}") from None
    _find_beside(values, folder)
    own, store = folder / "weights", model_store()
    base = values.pop("base", None)
    if base:
        parent = load_preset(base)
        changes = {"name": folder.name} | values
        inherited = parent.model_dump(exclude={"weights"}, exclude_unset=True)
        left_out = NETWORKS.keys() - changes.get("networks", NETWORKS)
        for model in left_out & inherited["models"].keys():
            del inherited["models"][model]
        values = _merged(inherited, changes)
        store = parent.weights
    if (folder / "backbone.json").is_file() or not base:
        values["folder"] = folder
    values["weights"] = weights or (own if own.is_dir() else store)
    for setting in settings:
        values = _merged(values, _parsed(setting))
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        given = ", ".join(s for s in settings if s.startswith(where)) or file
        what = first["msg"].removeprefix("Value error, ")
        raise ModelError(f"{given}: {where}: {what}") from None


def _parsed(setting: str) -> dict[str, object]:
    """A setting as the sections of a preset.toml: its value is TOML, or else text."""
    key, equals, value = setting.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names) or names[0] == "models":
        raise ModelError(f"setting {setting!r}: give it as section.name=value, as sample.cfg=5")
    try:
        changed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        changed = value.strip()
    for name in reversed(names):
        changed = {name: changed}
    return changed


def model_store() -> Path:
    """Where fetched models lie if no folder is named: `models` in FOLEY_HOME, or in ~/.foley."""
    return Path(os.environ.get("FOLEY_HOME") or "~/.foley").expanduser().absolute() / "models"


def _find_beside(values: dict[str, Any], folder: Path) -> None:
    """Put the folder before models and modules of classes that lie beside the preset.toml."""
    models: object = values.get("models")
    for files in models.values() if isinstance(models, dict) else []:
        path = files.get("path") if isinstance(files, dict) else None
        if isinstance(path, str) and (folder / path).exists():
            files["path"] = str((folder / path).absolute())
    if "stages" in values:
        values["stages"] = stages_beside(values["stages"], folder)
    video: object = values.get("video")
    if isinstance(video, dict) and "encoder" in video:
        video["encoder"] = _beside(video["encoder"], folder)


def stages_beside(stages: object, folder: Path) -> object:
    """Names of stages, with the folder before those whose module lies in it."""
    if not isinstance(stages, list):
        return stages  # wrong, and refused as such by whoever reads the file
    return [_beside(stage, folder) for stage in stages]


def _beside(name: object, folder: Path) -> object:
    """A class's name, with the folder in front where its module lies there."""
    package = folder / str(name).partition(":")[0].partition(".")[0]
    is_there = package.with_suffix(".py").is_file() or (package / "__init__.py").is_file()
    return f"{folder.absolute()}/{name}" if is_there else name


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, object]:
    """`changes` over `base`, section by section; a model as a whole: its files belong together."""
    merged = dict(base)
    for name, value in changes.items():
        before = base.get(name)
        if name == "models":
            merged[name] = base.get(name, {}) | value
        elif isinstance(value, dict) and isinstance(before, dict) and name not in _WHOLE:
            merged[name] = _merged(before, value)  # type: ignore[arg-type]
        else:
            merged[name] = value
    return merged
