"""Presets: everything in which the toy and the full-size system differ, as data.

A preset is a folder with `preset.toml` (read into the models below), `backbone.json` (the model configuration in
stable-audio-tools' own format) and, where they may be shipped, the weights. Code never asks which preset it runs.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.evaluation.audioset import MUSIC, SPEECH

CONFIGS = Path(__file__).parent / "configs"


class ModelError(ValueError):
    """A model, its weights or its settings cannot be used; the message says which and what to do."""


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error rather than silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    url: str | None = Field(default=None, description="address of its file, where it is not on the hub")
    sha256: str | None = Field(default=None, description="hash of the file at `url`, where it is known")
    licence: str = "made by this project"
    page: str | None = Field(default=None, description="page that tells of it; none: that of the repository")
    gated: bool = Field(default=False, description="whether its licence must be accepted on the page first")


class Models(Settings):
    """The models of a preset. The defaults are the layout of the weights that this project ships."""

    backbone: ModelFiles = ModelFiles(path="backbone.safetensors")
    text: ModelFiles = ModelFiles(path="t5")
    video: ModelFiles = ModelFiles(path="vjepa2")
    imagebind: ModelFiles = ModelFiles(path="imagebind.safetensors")
    audiobox: ModelFiles = ModelFiles(path="audiobox.safetensors")
    panns: ModelFiles = ModelFiles(path="panns.safetensors")
    passt: ModelFiles = ModelFiles(path="passt.safetensors")
    vggish: ModelFiles = ModelFiles(path="vggish.safetensors")
    synchformer: ModelFiles = ModelFiles(path="synchformer.safetensors")


class VideoSettings(Settings):
    """The video encoder and its input (paper section 3.3: V-JEPA2, 16 fps, 64 frames a 4 s segment, at most 12 s)."""

    encoder: Literal["vjepa2", "dinov3"] = "vjepa2"
    fps: int = 16
    segment_frames: int = 64
    short_side: int = Field(description="frames are scaled to this shortest side, in pixels, then cropped")
    crop: int = Field(description="side of the centre crop, in pixels; must be the encoder's own crop size")
    pooling: Literal["frame", "grid2", "grid4", "grid8", "grid16"] = Field(
        default="frame", description="one token an effective frame, or a square grid of so many a side"
    )
    width: int = Field(description="width of the encoder's tokens")

    @property
    def token_rate(self) -> float:
        """Effective frames a second: V-JEPA2 makes one of two frames (a tubelet), an image encoder one of each."""
        return self.fps / 2 if self.encoder == "vjepa2" else float(self.fps)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens an effective frame after pooling."""
        return 1 if self.pooling == "frame" else int(self.pooling.removeprefix("grid")) ** 2


class BridgeSettings(Settings):
    """The trainable part (paper section 3.3). What the paper leaves open is a named setting here."""

    heads: int = Field(description="attention heads of each video cross-attention")
    head_dim: int = Field(description="width of a head; heads * head_dim is the attention's inner width")
    adapter_width: int = Field(description="hidden width of the two-layer GELU adapter")
    rope_positions: Literal["seconds", "index"] = "seconds"
    rope_rate: float = Field(25.0, description="RoPE positions a second, where positions are seconds")
    rope_init: Literal["plain", "peaked"] = "plain"
    norm: Literal["layer", "rms"] = Field(default="layer", description="norm before q, and before k and v")
    zero_init: bool = Field(default=True, description="start with an output of zero: the bare backbone")
    null: Literal["learned", "zero"] = Field(default="learned", description="the token that stands for no video")
    pool_queries: int = Field(
        default=0, ge=0, description="learned pooling: tokens an effective frame that attend to its grid; 0 for none"
    )


class TrainSettings(Settings):
    """How the bridge is trained (paper sections 4.1 and 4.3; the backbone's own recipe where the paper is silent)."""

    steps: int = Field(description="optimiser steps")
    batch_size: int = Field(description="clips of a micro-batch: what a device holds at once")
    micro_batches: int = Field(default=1, ge=1, description="micro-batches of an optimiser step, over all processes")
    learning_rate: float
    schedule: Literal["cosine", "inverse"] = Field(
        default="cosine", description="inverse: stable-audio-tools' InverseLR"
    )
    warmup_steps: int = Field(default=1, ge=1, description="steps of linear rise, where the schedule is cosine")
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    ema_decay: float | None = Field(
        default=None, description="decay of the moving average that is kept in place of the weights"
    )
    video_drop: float = Field(
        default=0.1, description="share of clips whose video tokens are replaced by the null token"
    )
    text_drop: float = Field(default=0.1, description="share of clips whose cross-attention conditioning is zeroed")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the frozen backbone and of activations")
    checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about a third more time"
    )
    compile: bool = Field(
        default=False, description="run the blocks through torch.compile; weights are the same up to rounding"
    )
    diverged_at: float = Field(
        default=4.0, gt=1, description="stop when 20 steps in a row cost so many times the lowest median of 20 before"
    )
    seed: int = 0
    # what follows changes when things are looked at and kept, and no weight
    validate_every: int = Field(default=100, ge=1, description="steps between validations")
    validation_clips: int = Field(default=512, ge=1, description="held-out clips, the first so many, for validation")
    checkpoint_every: int = Field(default=100, ge=1, description="steps between checkpoints")
    keep_last: int = Field(
        default=2, ge=1, description="checkpoints before the final one that are kept, besides the best"
    )
    keep_steps: tuple[int, ...] = Field(default=(), description="steps whose checkpoints are kept for good")
    sample_every: int | None = Field(default=None, ge=1, description="steps between sound samples; none by default")

    def recipe(self) -> dict[str, Any]:
        """What the weights depend on."""
        looks = {"validate_every", "validation_clips", "checkpoint_every", "keep_last", "keep_steps", "sample_every"}
        return self.model_dump(exclude=looks | {"diverged_at", "compile"})


class SampleSettings(Settings):
    """How sound is sampled."""

    sampler: Literal["v-ddim", "dpmpp-3m-sde", "euler", "pingpong"] = Field(
        description="the first two for backbones that predict v, the others for rectified flow"
    )
    steps: int
    fast_steps: int = Field(description="steps of `foley generate --fast`")
    cfg: float = Field(description="guidance by text and video together (model/guidance.py)")
    video_cfg: float | None = Field(None, description="guidance by video; none: that of the text, as one")
    compile: bool = Field(default=False, description="run the DiT's blocks through torch.compile")
    sigma_min: float = 0.3
    sigma_max: float = 500.0


class WindowSettings(Settings):
    """How sound longer than the bridge was trained for is made (model/windows.py)."""

    seconds: float = Field(
        default=12.0, gt=0, description="longest stretch made at once: the length of the training clips"
    )
    overlap: float = Field(
        default=4.0, gt=0, description="seconds that neighbouring windows share; less than `seconds`"
    )

    @model_validator(mode="after")
    def _overlap_is_less(self) -> WindowSettings:
        if self.overlap >= self.seconds:
            raise ValueError(f"an overlap of {self.overlap:g} s leaves nothing of windows of {self.seconds:g} s")
        return self


class TaggerSettings(Settings):
    """What an audio tagger (PANNs) says of speech and music: which of its classes count, by name and place."""

    speech: dict[str, int] = Field(default=SPEECH, description="classes that are speech; by default AudioSet's")
    music: dict[str, int] = Field(default=MUSIC, description="classes that are music; by default AudioSet's")
    window: float = Field(default=2.0, ge=0.32, description="seconds that are tagged at a time")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="probability from which a class is heard")


class ScoreSettings(Settings):
    """Optional scoring stages, whose weights lie with those of evaluation (docs/scores.md)."""

    sync: bool = Field(default=False, description="offset between sound and picture, by Synchformer")
    tagger: TaggerSettings | None = Field(default=None, description="shares of speech and music, by PANNs")


class AblationSettings(Settings):
    """What `foley ablate pooling` compares (paper section 4.2, Table 1)."""

    poolings: tuple[str, ...] = Field(default=("frame", "grid8"), description="variants of `video.pooling`")
    marks: tuple[int, ...] = Field(
        default=(50_000, 100_000, 200_000, 300_000, 400_000), description="steps after which each is scored"
    )


class Preset(Settings):
    """One size of the whole system. `folder` holds its configuration, `weights` its weights."""

    name: str
    folder: Path
    weights: Path
    max_seconds: float = Field(12.0, description="longest stretch of a clip that training and evaluation use")
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
    audiobox: dict[str, Any] = Field(default_factory=dict, description="what differs from WavLM base in Audiobox")
    evaluation_seconds: float = Field(8.0, gt=0, description="what evaluation hears and sees of a clip, s")
    evaluation: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="what differs from the published evaluation networks, by network"
    )
    untrained: dict[str, dict[str, Any]] = Field(default_factory=dict, description="architectures of random encoders")

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

    A preset.toml with `base = NAME` says only what differs from that preset (docs/swapping.md). Raises ModelError if
    there is no such preset or a setting in it is wrong.
    """
    folder = CONFIGS / name if (CONFIGS / name).is_dir() else Path(name)
    file = folder / "preset.toml"
    if not file.is_file():
        known = ", ".join(sorted(p.name for p in CONFIGS.iterdir() if p.is_dir()))
        raise ModelError(f"no preset {name!r}: choose one of {known}, or a folder that holds a preset.toml")
    try:
        values = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{file} is not TOML: {error}") from None
    _find_beside(values, folder)
    own, store = folder / "weights", model_store()
    if base := values.pop("base", None):
        found = load_preset(base)
        values = _merged(found.model_dump(exclude={"weights"}, exclude_unset=True), {"name": folder.name} | values)
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
    """Make paths of models absolute where they lie beside the preset.toml, not in the folder of weights."""
    models: Any = values.get("models")
    for files in models.values() if isinstance(models, dict) else []:
        path = files.get("path") if isinstance(files, dict) else None
        if isinstance(path, str) and (folder / path).exists():
            files["path"] = str((folder / path).absolute())


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, section by section; a model is replaced as a whole, since its files belong together."""
    found = dict(base)
    for key, value in changes.items():
        if key == "models":
            found[key] = base.get(key, {}) | value
        elif isinstance(value, dict) and isinstance(base.get(key), dict) and key not in ("imagebind", "audiobox"):
            found[key] = _merged(base[key], cast("dict[str, Any]", value))
        else:
            found[key] = value
    return found
