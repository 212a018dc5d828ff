"""The sections of a preset: what may be set of each part, with limits and defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.presets.audioset import MUSIC, SPEECH


class Settings(BaseModel):
    """Base of all settings.

    Immutable, and an unknown name is an error rather than silently ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoSettings(Settings):
    """The video encoder and its input (paper section 3.3.

    V-JEPA2, 16 fps, 64 frames a 4 s segment, at most 12 s).
    """

    encoder: Literal["vjepa2", "dinov3"] = "vjepa2"
    fps: int = 16
    segment_frames: int = 64
    short_side: int = Field(
        description="frames are scaled to this shortest side, in pixels, then cropped"
    )
    crop: int = Field(
        description="side of the centre crop, in pixels; must be the encoder's own crop size"
    )
    pooling: Literal["frame", "grid2", "grid4", "grid8", "grid16"] = Field(
        default="frame",
        description="one token an effective frame, or a square grid of so many a side",
    )
    width: int = Field(description="width of the encoder's tokens")

    @property
    def token_rate(self) -> float:
        """Effective frames a second.

        V-JEPA2 makes one of two frames (a tubelet), an image encoder one of each.
        """
        return self.fps / 2 if self.encoder == "vjepa2" else float(self.fps)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens an effective frame after pooling."""
        return 1 if self.pooling == "frame" else int(self.pooling.removeprefix("grid")) ** 2


class BridgeSettings(Settings):
    """The trainable part (paper section 3.3).

    What the paper leaves open is a named setting here.
    """

    heads: int = Field(description="attention heads of each video cross-attention")
    head_dim: int = Field(
        description="width of a head; heads * head_dim is the attention's inner width"
    )
    adapter_width: int = Field(description="hidden width of the two-layer GELU adapter")
    rope_positions: Literal["seconds", "index"] = "seconds"
    rope_rate: float = Field(
        25.0, description="RoPE positions a second, where positions are seconds"
    )
    rope_init: Literal["plain", "peaked"] = "plain"
    norm: Literal["layer", "rms"] = Field(
        default="layer", description="norm before q, and before k and v"
    )
    zero_init: bool = Field(
        default=True, description="start with an output of zero: the bare backbone"
    )
    null: Literal["learned", "zero"] = Field(
        default="learned", description="the token that stands for no video"
    )
    pool_queries: int = Field(
        default=0,
        ge=0,
        description="learned pooling: tokens an effective frame that attend to its grid; 0 for none",
    )


class TrainSettings(Settings):
    """How the bridge is trained (paper sections 4.1 and 4.3.

    The backbone's own recipe where the paper is silent).
    """

    steps: int = Field(description="optimiser steps")
    batch_size: int = Field(description="clips of a micro-batch: what a device holds at once")
    micro_batches: int = Field(
        default=1, ge=1, description="micro-batches of an optimiser step, over all processes"
    )
    learning_rate: float
    schedule: Literal["cosine", "inverse"] = Field(
        default="cosine", description="inverse: stable-audio-tools' InverseLR"
    )
    warmup_steps: int = Field(
        default=1, ge=1, description="steps of linear rise, where the schedule is cosine"
    )
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    ema_decay: float | None = Field(
        default=None, description="decay of the moving average that is kept in place of the weights"
    )
    video_drop: float = Field(
        default=0.1, description="share of clips whose video tokens are replaced by the null token"
    )
    text_drop: float = Field(
        default=0.1, description="share of clips whose cross-attention conditioning is zeroed"
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of the frozen backbone and of activations"
    )
    checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about a third more time"
    )
    compile: bool = Field(
        default=False,
        description="run the blocks through torch.compile; weights are the same up to rounding",
    )
    diverged_at: float = Field(
        default=4.0,
        gt=1,
        description="stop when 20 steps in a row cost so many times the usual (model/training/divergence.py)",
    )
    seed: int = 0
    # what follows changes when things are looked at and kept, and no weight
    validate_every: int = Field(default=100, ge=1, description="steps between validations")
    validation_clips: int = Field(
        default=512, ge=1, description="held-out clips, the first so many, for validation"
    )
    checkpoint_every: int = Field(default=100, ge=1, description="steps between checkpoints")
    keep_last: int = Field(
        default=2,
        ge=1,
        description="checkpoints before the final one that are kept, besides the best",
    )
    keep_steps: tuple[int, ...] = Field(
        default=(), description="steps whose checkpoints are kept for good"
    )
    sample_every: int | None = Field(
        default=None, ge=1, description="steps between sound samples; none by default"
    )

    def recipe(self) -> dict[str, Any]:
        """What the weights depend on."""
        looks = {
            "validate_every",
            "validation_clips",
            "checkpoint_every",
            "keep_last",
            "keep_steps",
            "sample_every",
        }
        return self.model_dump(exclude=looks | {"diverged_at", "compile"})


class SampleSettings(Settings):
    """How sound is sampled."""

    sampler: Literal["v-ddim", "dpmpp-3m-sde", "euler", "pingpong"] = Field(
        description="the first two for backbones that predict v, the others for rectified flow"
    )
    steps: int
    fast_steps: int = Field(description="steps of `foley generate --fast`")
    cfg: float = Field(
        description="guidance by text and video together (model/sampling/guidance.py)"
    )
    video_cfg: float | None = Field(
        None, description="guidance by video; none: that of the text, as one"
    )
    compile: bool = Field(default=False, description="run the DiT's blocks through torch.compile")
    sigma_min: float = 0.3
    sigma_max: float = 500.0


class WindowSettings(Settings):
    """How sound longer than the bridge was trained for is made (model/sampling/windows.py)."""

    seconds: float = Field(
        default=12.0,
        gt=0,
        description="longest stretch made at once: the length of the training clips",
    )
    overlap: float = Field(
        default=4.0,
        gt=0,
        description="seconds that neighbouring windows share; less than `seconds`",
    )

    @model_validator(mode="after")
    def _overlap_is_less(self) -> WindowSettings:
        if self.overlap >= self.seconds:
            raise ValueError(
                f"an overlap of {self.overlap:g} s leaves nothing of windows of {self.seconds:g} s"
            )
        return self


class TaggerSettings(Settings):
    """What an audio tagger (PANNs) says of speech and music.

    Which of its classes count, by name and place.
    """

    speech: dict[str, int] = Field(
        default=SPEECH, description="classes that are speech; by default AudioSet's"
    )
    music: dict[str, int] = Field(
        default=MUSIC, description="classes that are music; by default AudioSet's"
    )
    window: float = Field(default=2.0, ge=0.32, description="seconds that are tagged at a time")
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="probability from which a class is heard"
    )


class ScoreSettings(Settings):
    """Optional scoring stages, by networks that evaluation uses too (docs/scores.md)."""

    sync: bool = Field(
        default=False, description="offset between sound and picture, by Synchformer"
    )
    tagger: TaggerSettings | None = Field(
        default=None, description="shares of speech and music, by PANNs"
    )


class AblationSettings(Settings):
    """What `foley ablate pooling` compares (paper section 4.2, Table 1)."""

    poolings: tuple[str, ...] = Field(
        default=("frame", "grid8"), description="variants of `video.pooling`"
    )
    marks: tuple[int, ...] = Field(
        default=(50_000, 100_000, 200_000, 300_000, 400_000),
        description="steps after which each is scored",
    )
