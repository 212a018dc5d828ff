"""What may be asked of `foley generate`: the one statement of its options, for flow, command, API.

Imports no model: the command reads its options from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.presets.settings import ModelError, SampleSettings
from pipeline.generation.retake import read_spans
from warehouse.errors import FoleyError
from warehouse.files import file_sha256

if TYPE_CHECKING:
    from model.presets.preset import Preset

MAX_SEED = 2**31 - 1
MAX_SECONDS = 3600.0  # a header may claim any length, and the sound of all of it is in memory
_USED = ("sample", "window", "models")  # sections of a preset that generation reads


class SoundOptions(BaseModel):
    """What a sound is to be like, beside its prompt; the defaults are what the models give."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seconds: float | None = Field(default=None, ge=0.1, le=MAX_SECONDS)
    """Length of a sound that is made of text alone, without a video."""
    redo: str | None = Field(default=None, min_length=1)
    """Make only this stretch of an earlier sound anew, as 2.5-4.0 seconds; VIDEO is that sound, or
    a video with it, and video and prompt are those of its sidecar."""
    like: Path | None = None
    """A sound whose material the new one is to have."""
    strength: float = Field(default=0.85, gt=0, le=1)
    """How far the sound may go from the one of `like`; 1 keeps nothing of it."""
    cues: str | None = Field(default=None, min_length=1, max_length=10_000)
    """Prompts over time: "0-3.2 footsteps; 3.2-6 door slams", a .csv (start, end, prompt) or an
    .edl."""
    across_cuts: bool = False
    """Let windows reach over cuts of the picture."""
    without: Literal["speech", "music", "speech,music"] | None = None
    """Where the preset's tagger hears it, the sound is made again with the video hidden there."""
    loudness: float | None = Field(default=None, ge=-70, le=0)
    """Loudness of the sound in LUFS by BS.1770, with a true peak of -1 dB at most: -23 by EBU."""
    sample_rate: int | None = Field(default=None, ge=8000, le=192_000)
    """Of the sound, in 24 bits where the file holds PCM; 48000 for work with video."""
    mix: float | None = Field(default=None, ge=-60, le=20)
    """Lay the new sound over the video's own, at so many dB."""
    keep_audio: bool = False
    """Keep the video's own sound tracks, behind the new one."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.like is None and "strength" in self.model_fields_set:
            default = type(self).model_fields["strength"].default
            if self.strength != default:
                raise ValueError("--strength is how far to go from a sound: give --like, too")
        if self.redo is None:
            return self
        read_spans(self.redo)
        if self.like is not None:
            raise ValueError("--redo and --like both say what to begin with: give one")
        changing = ("seconds", "loudness", "sample_rate", "mix", "without")
        given = [name.replace("_", "-") for name in changing if getattr(self, name) is not None]
        if given:
            raise ValueError(f"--redo keeps the rest of a sound as it is: --{given[0]} does not")
        return self

    @classmethod
    def of(cls, **options: object) -> Self:
        """Options by name. Raises FoleyError for an unknown one, or one out of its limits."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            raise FoleyError(said_of(error)) from None

    def facts(self) -> dict[str, object]:
        """What differs from the defaults, as a sidecar keeps it: a file by its content, too."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        for name in ("like", "cues"):
            path = Path(str(told.get(name) or ""))
            if path.suffix and len(str(path)) < 4096 and path.is_file():
                told[name] = {"path": str(path.absolute()), "sha256": file_sha256(path)}
        return told


class GenerateOptions(SoundOptions):
    """Everything that `foley generate` may be told beside its files; None is the preset's own."""

    prompt: str | None = Field(default=None, max_length=2000)
    """What is to be heard; "" lets the video alone decide. In a folder by default as its clips.csv
    has it, or the file's name."""
    negative_prompt: str | None = Field(default=None, max_length=2000)
    """What is not to be heard."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of the sound; the first of several takes."""
    takes: int = Field(default=1, ge=1, le=1000)
    """Sounds a video, by seed."""
    stem: bool = False
    """Write the new sound by itself, too, beside a mix or a video: NAME.stem.wav."""
    format: Literal["mp4", "mov", "mkv", "webm", "wav", "flac"] | None = None
    """Of files in a folder; by default as the video, or mkv."""
    cfg: float | None = Field(default=None, ge=0, le=100)
    """Guidance; the preset's by default."""
    steps: int | None = Field(default=None, ge=1, le=10_000)
    """Sampling steps; the preset's by default."""
    fast: bool = False
    """Fewer steps: the preset's fast_steps."""
    batch: int = Field(default=8, ge=1, le=1024)
    """Sounds of one length that are made at once."""
    low_memory: bool = False
    """Keep the DiT's matrices in 8 bits (torchao), and one model at a time on the device."""
    overwrite: bool = False
    """Make sounds anew that are there already, by the hashes in their sidecars."""
    preset: str = "toy"
    weights: Path | None = None
    settings: tuple[str, ...] = ()
    checkpoint: str | None = None
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""

    @model_validator(mode="after")
    def _steps_are_said_once(self) -> Self:
        if self.fast and self.steps:
            raise ValueError("--fast and --steps both say how many steps: give one")
        return self

    @property
    def of_sound(self) -> SoundOptions:
        """What a sound is to be like."""
        return SoundOptions(**self.model_dump(include=set(SoundOptions.model_fields)))

    def sampling_preset(self) -> Preset:
        """The preset, sampling as these options say. Raises ModelError if there is none."""
        from model.presets.preset import load_preset

        preset = load_preset(self.preset, self.weights, self.settings)
        steps = preset.sample.fast_steps if self.fast else self.steps
        sample = sample_settings(preset, cfg=self.cfg, steps=steps)
        return preset.model_copy(update={"sample": sample})

    def unused(self) -> list[str]:
        """A line for every setting that generation does not read."""
        used = (*_USED, "scores") if self.without else _USED
        idle = [text for text in self.settings if text.partition(".")[0] not in used]
        return [f"--set {text}: generation does not use it, a bridge has its own" for text in idle]


def said_of(error: ValidationError) -> str:
    """What is wrong with the first option that is, in one line."""
    first = error.errors()[0]
    where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":  # those that we wrote name what is wrong
        what += f", not {first['input']!s}"
    return f"{where}: {what}" if where else what


def sample_settings(preset: Preset, **changes: float | None) -> SampleSettings:
    """How the preset samples, but for the changes that are not None.

    Raises ModelError for what its sampler cannot do.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return SampleSettings.model_validate(preset.sample.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"sample.{name}: " for name in first["loc"])
        raise ModelError(where + first["msg"].removeprefix("Value error, ")) from None
