"""The sections of a preset: what may be set of each part, with limits and defaults."""

import sys
from importlib import import_module
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from model.presets.audioset import MUSIC, SPEECH
from warehouse.errors import FoleyError

#: The families of video encoders by name; one of another module is named `module:Class`.
ENCODERS = {
    "vjepa2": "model.video_encoder:VJepa2Encoder",
    "dinov3": "model.video_encoder:DinoV3Encoder",
}
_CHANGES_NO_WEIGHT = {"validate_every", "validation_clips", "checkpoint_every", "keep_last"} | {
    "keep_steps", "keep_state", "sample_every", "diverged_at", "compile", "tracker"
}  # fmt: skip
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Precision = Literal["fp32", "bf16"]
# one token an effective frame, or a square grid of so many a side
Pooling = Literal["frame", "grid2", "grid4", "grid8", "grid16"]


class ModelError(FoleyError, ValueError):
    """A model, its weights or its settings cannot be used; the message says what to do."""


def load_class(name: str) -> type[Any]:
    """The class of "package.module:Class", imported only now.

    A module beside a preset.toml has its folder in front: "/folder/module:Class". Raises ModelError
    where there is no such module or class.
    """
    path, _, attribute = name.partition(":")
    folder, _, module = path.rpartition("/")
    if folder and folder not in sys.path:
        sys.path.append(folder)  # last, so that a module of one's own shadows none that we import
    try:
        loaded = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"{name}: {error or 'no name'}; give it as package.module:Class") from None
    if not isinstance(loaded, type):
        raise ModelError(f"{name} is no class")
    return loaded


class Settings(BaseModel):
    """Base of all settings: immutable; an unknown name, or a number that is none, is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VideoSettings(Settings):
    """The encoder's input (paper section 3.3: 16 fps, 64 frames a 4 s segment, at most 12 s)."""

    encoder: str = "vjepa2"  # a name in ENCODERS, or a VideoEncoder of one's own as `module:Class`
    fps: int = 16
    segment_frames: int = 64
    short_side: int  # frames are scaled to this shortest side, in pixels, then cropped
    crop: int  # side of the centre crop, in pixels; must suit the encoder
    pooling: Pooling = "frame"
    width: int  # of the encoder's tokens

    @field_validator("encoder")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value not in ENCODERS and ":" not in value:
            names = ", ".join(ENCODERS)
            raise ValueError(f"no encoder {value!r}: choose one of {names}, or module:Class")
        return value

    @property
    def family(self) -> type[Any]:
        """The class of the encoder, a `VideoEncoder` of model/video_encoder.py; imports torch."""
        return load_class(ENCODERS.get(self.encoder, self.encoder))

    @property
    def token_rate(self) -> float:
        """Effective frames a second, which the encoder's family decides."""
        return self.fps / self.family.frames_per_token

    @property
    def tokens_per_frame(self) -> int:
        """Tokens an effective frame after pooling."""
        return 1 if self.pooling == "frame" else int(self.pooling.removeprefix("grid")) ** 2


class BridgeSettings(Settings):
    """The trainable part (paper section 3.3); what the paper leaves open is a setting here."""

    heads: int  # attention heads of each video cross-attention
    head_dim: int  # width of a head; heads * head_dim is the attention's inner width
    adapter_width: int  # hidden width of the two-layer GELU adapter
    rope_positions: Literal["seconds", "index"] = "seconds"
    rope_rate: float = 25.0  # RoPE positions a second, where positions are seconds
    rope_init: Literal["plain", "peaked"] = "plain"
    norm: Literal["layer", "rms"] = "layer"  # before q, and before k and v
    zero_init: bool = True  # start with an output of zero: the bare backbone
    null: Literal["learned", "zero"] = "learned"  # the token that stands for no video
    # a learned vector for each cell of an effective frame, added to its token: where in the picture
    # it is, of which encoders with rotary positions leave little in a token
    cell_embedding: bool = False
    # learned pooling: tokens an effective frame that attend to its grid; 0 for none
    pool_queries: int = Field(default=0, ge=0)


class TrainSettings(Settings):
    """Training of the bridge (paper sections 4.1, 4.3; else the backbone's own recipe)."""

    steps: int  # optimiser steps
    batch_size: int  # clips of a micro-batch: what a device holds at once
    micro_batches: Count = 1  # of an optimiser step, over all processes
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "inverse"] = "cosine"  # inverse: stable-audio-tools' InverseLR
    warmup_steps: Count = 1  # steps of linear rise, where the schedule is cosine
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    ema_decay: float | None = None  # of the moving average that is saved in place of the weights
    video_drop: float = 0.1  # share of clips whose video tokens are replaced by the null token
    text_drop: float = 0.1  # share of clips whose cross-attention conditioning is zeroed
    joint_drop: float = 0.0  # share of clips that lose both, besides those that do by chance
    token_drop: float = 0.0  # share of single video tokens that are not attended to
    # post-training of a trained bridge: the weight of preferring the own sound to a false one, and
    # how sharply (model/training/preference.py)
    preference: float = Field(default=0.0, ge=0)
    preference_beta: float = Field(default=100.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"  # of the frozen backbone and of activations
    checkpointing: bool = False  # recompute activations: less memory, about half more time
    compile: bool = False  # the blocks through torch.compile; same weights up to rounding
    # stop when 20 steps in a row cost so many times the usual (model/training/divergence.py)
    diverged_at: float = Field(default=4.0, gt=1)
    seed: int = 0
    # early stopping: end after so many validations without a better one; what is written are the
    # weights of the best (model/training/early_stopping.py); none: the last step's
    patience: Count | None = None
    # what follows changes what is written and when; the first two, under `patience`, the best step
    validate_every: Count = 100  # steps between validations
    validation_clips: Count = 512  # held-out clips, the first so many, for validation
    checkpoint_every: Count = 100  # steps between checkpoints
    keep_last: Count = 2  # checkpoints before the final one that stay, besides the best
    keep_steps: tuple[int, ...] = ()  # steps whose checkpoints stay for good
    keep_state: bool = False  # keep the finished training's optimiser, to go on from with it
    sample_every: Count | None = None  # steps between sound samples
    # where the curves go beside TensorBoard: a tracker of Accelerate's, or one's own `module:Class`
    tracker: str | None = None

    def recipe(self) -> dict[str, Any]:
        """What the weights depend on."""
        unused = _CHANGES_NO_WEIGHT | {"patience"}
        if self.patience is not None:
            unused = _CHANGES_NO_WEIGHT - {"validate_every", "validation_clips"}
        if not self.preference:
            unused |= {"preference", "preference_beta"}
        return self.model_dump(exclude=unused)


class TrainingStage(Settings):
    """A training of a recipe: the one before it is what it starts from."""

    subset: Literal["sft", "ablation"] | None = None  # of the train split; none: all of it
    train: dict[str, Any] = Field(default_factory=dict)  # what differs from `train`


class SampleSettings(Settings):
    """How sound is sampled."""

    # the first two for backbones that predict v, the others for rectified flow
    sampler: Literal["v-ddim", "dpmpp-3m-sde", "euler", "pingpong"]
    steps: Count
    fast_steps: Count  # steps of `foley generate --fast`
    cfg: float  # guidance by text and video together (model/sampling/guidance.py)
    video_cfg: float | None = None  # guidance by video; none: that of the text, as one
    compile: bool = False  # run the DiT's blocks through torch.compile
    sigma_min: float = 0.3
    sigma_max: float = 500.0

    @model_validator(mode="after")
    def _steps_are_enough(self) -> Self:
        if self.sampler == "dpmpp-3m-sde" and min(self.steps, self.fast_steps) < 2:
            raise ValueError("sampler dpmpp-3m-sde takes 2 steps at least")
        return self


class WindowSettings(Settings):
    """How sound longer than the bridge was trained for is made (model/sampling/windows.py)."""

    # longest stretch made at once; where a preset does not set it, what the bridge was trained on
    seconds: Seconds = 12.0
    overlap: Seconds = 4.0  # seconds that neighbouring windows share; less than `seconds`
    # what the DiT runs for every sound, in training too: the sound, then encoded silence up to so
    # many seconds; none: as long as the sound is (model/sampling/canvas.py)
    canvas_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        own = "seconds" in self.model_fields_set
        if own and self.canvas_seconds is not None and self.canvas_seconds < self.seconds:
            raise ValueError(
                f"a canvas of {self.canvas_seconds:g} s has no room for {self.seconds:g} s of sound"
            )
        if self.overlap >= self.seconds:
            raise ValueError(
                f"an overlap of {self.overlap:g} s leaves nothing of windows of {self.seconds:g} s"
            )
        return self


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageBindViews:
    """When and how ImageBind looks at a clip.

    Upstream: 5 windows of 2 s with 2 frames each, 3 crops; 3 sounds of 2 s, 204 mel frames each.
    """

    video_clips: int = 5
    audio_clips: int = 3
    clip_seconds: float = 2.0
    frames: int = 2
    crops: int = 3
    mel_frames: int = 204


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TaggerSettings:
    """Windows of a sound that an audio tagger (PANNs) says hold speech or music."""

    window: Annotated[float, Field(ge=0.32)] = 2.0  # seconds that are tagged at a time
    # a window is speech (music) where any class of it is at least so probable
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    # the classes that count, with their places in the tagger's output
    speech: dict[str, int] = Field(default_factory=SPEECH.copy)
    music: dict[str, int] = Field(default_factory=MUSIC.copy)


class ScoreSettings(Settings):
    """Which networks score clips (docs/curation.md); evaluation has its own list, `networks`."""

    imagebind: bool = True  # whether sound and picture belong together
    audiobox: bool = True  # how good the sound is
    sync: bool = False  # offset between sound and picture, by Synchformer
    tagger: TaggerSettings | None = None  # shares of speech and music, by PANNs


class PrecisionSettings(Settings):
    """Types of numbers in which stages run what they load: bf16 is autocast of a float32 model.

    Another type gives other values, so it is part of the stages' fingerprints.
    """

    video: Precision = "fp32"  # the video encoder, for features
    latents: Precision = "fp32"  # the VAE, for features
    networks: Precision = "fp32"  # those that score clips and sounds, in curation and evaluation


def revision_in(revision: str, precision: Precision) -> str:
    """A model's revision, which float32 leaves as it is."""
    return revision if precision == "fp32" else f"{revision} {precision}"


class AblationSettings(Settings):
    """What `foley ablate pooling` compares (paper section 4.2, Table 1)."""

    poolings: tuple[Pooling, ...] = ("frame", "grid8")  # variants of `video.pooling`
    # steps after which each is scored
    marks: tuple[int, ...] = (50_000, 100_000, 200_000, 300_000, 400_000)
