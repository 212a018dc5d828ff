"""Parameters of the flows that make sounds, and score them."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import DirectoryPath, Field, field_validator, model_validator

from flows.parameters.shared import (
    BatchParameters,
    CheckpointName,
    Model,
    ModelParameters,
    PresetName,
    Seed,
)
from pipeline.generation.options import GenerateOptions

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class GenerateParameters(ModelParameters, GenerateOptions):
    """From videos to the same videos with new sound, or from a text to a sound."""

    on_device = True

    preset: PresetName = "toy"
    """toy, world, paper, or a folder with a preset.toml."""
    video: Path | None = None
    """A video, a folder of videos or a CSV, on the machine of the worker; none for text alone."""
    out: Path
    """Video to write, .wav or .flac for the sound alone; for a folder or a CSV, a folder."""
    checkpoint: CheckpointName = None

    @model_validator(mode="after")
    def _out_is_another_file(self) -> Self:
        if self.out == self.video and not self.out.is_dir():
            raise ValueError(f"out is the video itself ({self.out}): choose another file")
        return self


class SystemFolder(Model):
    """A system, and where its sounds are; NAME=FOLDER as text."""

    name: str = Field(json_schema_extra={"pattern": _NAME})
    """Name of the system, such as mmaudio."""
    folder: DirectoryPath
    """Folder of its sounds, named as the videos are."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        name, _, folder = value.partition("=")
        if not (name and folder):
            raise ValueError(f"{value}: give it as NAME=FOLDER, such as mmaudio=results/mmaudio")
        return {"name": name, "folder": folder}

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not re.fullmatch(_NAME, name):
            raise ValueError(
                f"{name!r} cannot name a system: use letters, digits, '-', '_' and '.'"
            )
        if name == "original":
            raise ValueError("'original' is the videos' own sound: name the system otherwise")
        return name


class EvaluateParameters(BatchParameters):
    """A checkpoint on its held-out clips, or systems on an evaluation set."""

    checkpoint: CheckpointName = None
    seed: Seed = 0
    """Seed of the generated sounds."""
    table2: bool = False
    """All metrics of Table 2 for the held-out clips, too."""
    on: DirectoryPath | None = None
    """Folder of an evaluation set; the checkpoint's held-out clips by default."""
    systems: tuple[SystemFolder, ...] = ()
    """Systems to score, as NAME=FOLDER; on held-out clips beside the checkpoint's own."""
    reference: DirectoryPath | None = None
    """Folder of the set's true sounds; the videos' own by default."""
    name: str | None = None
    """Name of the set; the folder's own by default."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many videos of the set, or held-out clips, by name."""
    out: Path | None = None
    """Folder for Table 2 and its page; in HOME/reports by default."""
    resamples: int = Field(default=200, ge=0, le=100_000)
    """Bootstrap samples of the Frechet distances."""
    imagebind_channel: Literal["mean", "left"] = "mean"
    """What ImageBind hears of a stereo sound (the benchmark: left)."""
    scaling: Literal["bicubic", "bilinear"] = "bicubic"
    """How pictures are brought to size (the benchmark: bicubic)."""

    @property
    def with_table2(self) -> bool:
        """Whether all metrics are computed, not only the figures of a checkpoint."""
        return self.table2 or self.on is not None or bool(self.systems)

    @property
    def subject(self) -> str:
        """What is evaluated, as a run's name has it."""
        return f"on {self.on.name}" if self.on else self.checkpoint or "the newest checkpoint"

    @field_validator("systems")
    @classmethod
    def _names_differ(cls, systems: tuple[SystemFolder, ...]) -> tuple[SystemFolder, ...]:
        by_slug: dict[str, str] = {}
        for name in (system.name for system in systems):
            slug = re.sub(r"[^a-z0-9]", "-", name.lower())
            if slug in by_slug:
                raise ValueError(
                    f"systems {by_slug[slug]} and {name} are told apart by nothing but signs: "
                    "rename one"
                )
            by_slug[slug] = name
        return systems

    @model_validator(mode="after")
    def _no_option_is_dropped(self) -> Self:
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        if self.on is not None:
            if not self.systems:
                raise ValueError("no system to evaluate: give at least one, as NAME=FOLDER")
            _refuse(given, ("checkpoint", "seed"), "goes with held-out clips, not with a set (on)")
            return self
        _refuse(given, ("reference", "name"), "goes with an evaluation set: give on, too")
        if not self.with_table2:
            table = ("out", "resamples", "imagebind_channel", "scaling")
            _refuse(given, table, "goes with Table 2: give table2 (--table), too")
        return self


def _refuse(given: set[str], names: tuple[str, ...], why: str) -> None:
    """Raises ValueError where one of the names is given."""
    for name in names:
        if name in given:
            raise ValueError(f"{name} {why}")
