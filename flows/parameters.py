"""Parameters of the flows.

What a person may set, with limits, as the form in Prefect's UI shows them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from warehouse.errors import FoleyError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
DEFAULT_HOME = Path("~/.foley")
BASE_URL = "https://s3.amazonaws.com/kinetics/700_2020/"  # Kinetics-700-2020's public mirror


def home_folder() -> Path:
    """The folder with all state: FOLEY_HOME, or ~/.foley."""
    return Path(os.environ.get("FOLEY_HOME") or DEFAULT_HOME).expanduser().absolute()


def _choice(names: tuple[str, ...], other: str) -> WithJsonSchema:
    """A form field with the names to choose from, and text for what is not among them."""
    chosen: dict[str, Any] = {
        "title": "one that comes with it",
        "type": "string",
        "enum": list(names),
    }
    return WithJsonSchema(
        {"anyOf": [chosen, {"title": other, "type": "string", "pattern": "[/.]"}]}
    )


Seed = Annotated[int, Field(ge=0, lt=2**31)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
PresetName = Annotated[str, _choice(("toy", "paper"), "a folder with a preset.toml")]
PolicyName = Annotated[
    str, _choice(("all", "hunyuan", "mova", "strict", "toy"), "path of a .toml file")
]


class Parameters(BaseModel):
    """What all flows have in common; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(
        default_factory=home_folder,
        description="folder with all state of this factory; empty means the worker's own",
    )

    #: Whether runs of the flow use a device where there are any.
    on_device: ClassVar[bool] = False

    @property
    def devices(self) -> int:
        """Devices of this machine that a run has to itself: one, or one a process.

        A cluster has its own.
        """
        if not self.on_device or getattr(self, "cluster", None):
            return 0
        return int(getattr(self, "processes", 1))


class ModelParameters(Parameters):
    """Parameters of a flow that uses models."""

    preset: PresetName = Field(
        default="toy", description="toy, paper, or a folder that holds a preset.toml"
    )
    weights: Path | None = Field(
        default=None, description="folder with weights, in place of the preset's own"
    )

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, name: str) -> str:
        from model.presets.preset import load_preset

        load_preset(name)  # raises ModelError, which says what there is
        return name

    @field_validator("weights")
    @classmethod
    def _weights_exist(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"no folder {folder} on this machine")
        return folder


class BatchParameters(ModelParameters):
    """How a flow that runs stages splits its work, and what runs the parts."""

    on_device = True

    workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="batches at the same time; 0 means one a processor core",
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=65536, description="clips a task; empty means the stage's own"
    )
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="a clip that failed so often is left alone"
    )
    runner: Literal["thread", "process", "dask", "ray"] = Field(
        default="thread",
        description="what runs the batches: threads or processes of this machine, Dask, or Ray",
    )
    cluster: str | None = Field(
        default=None,
        description="address of a Dask scheduler or Ray head; empty: a cluster on this machine",
    )

    @model_validator(mode="after")
    def _cluster_has_a_runner(self) -> BatchParameters:
        if self.cluster and self.runner not in ("dask", "ray"):
            raise ValueError(
                f"cluster is {self.cluster!r} and runner is {self.runner!r}: "
                "choose runner dask or ray"
            )
        return self

    @property
    def batches_at_once(self) -> int:
        """`workers`, or the number of cores that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


class SelectParameters(ModelParameters):
    """From scores to a dataset version."""

    policy: PolicyName = Field(
        default="all",
        description="what is kept: all that decodes, hunyuan, mova, strict, toy, or a .toml file",
    )
    dataset: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$",
        description="name of the dataset; empty means the policy's",
    )

    @field_validator("policy")
    @classmethod
    def _policy_exists(cls, name: str) -> str:
        from pipeline.curation.policy import load_policy

        try:
            load_policy(name)
        except FoleyError as error:
            raise ValueError(str(error)) from None
        return name


class CurateParameters(BatchParameters, SelectParameters):
    """From media files to a dataset version with cached features."""

    folder: Path | None = Field(
        default=None, description="folder of clips to bring in first; empty means all known clips"
    )
    source: str | None = Field(
        default=None, description="name of the folder's clips; empty means the folder's own name"
    )
    features: bool = Field(default=True, description="compute the features that training reads")

    @model_validator(mode="after")
    def _source_has_a_folder(self) -> CurateParameters:
        if self.source and not self.folder:
            raise ValueError(
                f"source is {self.source!r}, which names a folder's clips: give the folder too"
            )
        return self


class FeaturesParameters(BatchParameters):
    """From a dataset version to the features that training reads."""

    dataset: str | None = Field(
        default=None, description="dataset name or version; empty means the newest"
    )


class TrainParameters(ModelParameters):
    """From a dataset version to a checkpoint."""

    on_device = True

    dataset: str | None = Field(
        default=None, description="dataset name or version; empty means the newest"
    )
    steps: Steps | None = Field(
        default=None, description="optimiser steps; empty means the preset's"
    )
    seed: Seed = Field(default=0, description="seed of initialisation, order of clips and noise")
    subset: Literal["sft", "ablation"] | None = Field(
        default=None, description="train on this subset of the dataset only; empty means all of it"
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that train together on this machine, one a GPU where there are any",
    )


class AblateParameters(BatchParameters):
    """The same training with one thing changed.

    How video tokens are pooled, or whether the clips are curated.
    """

    what: Literal["pooling", "curation"] = Field(description="what is changed")
    dataset: str | None = Field(
        default=None, description="dataset name or version; empty means the newest"
    )
    poolings: tuple[Literal["frame", "grid2", "grid4", "grid8", "grid16"], ...] = Field(
        default=(),
        description="variants, no finer than the encoder's grid; empty means the preset's",
    )
    marks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description="steps to score at; empty means the preset's, or for curation the last",
    )
    seed: Seed = Field(default=0, description="seed of initialisation, order of clips and noise")
    processes: int = Field(
        default=1, ge=1, le=64, description="processes that train together on this machine"
    )


class GenerateParameters(ModelParameters):
    """From a video to the same video with new sound."""

    on_device = True

    video: Path = Field(description="video file, on the machine of the worker")
    out: Path = Field(description="video to write; .wav or .flac: the sound alone")
    prompt: str = Field(min_length=1, max_length=2000, description="what is to be heard")
    negative_prompt: str | None = Field(
        default=None, max_length=2000, description="what is not to be heard"
    )
    cfg: float | None = Field(
        default=None, ge=0, le=100, description="guidance; empty means the preset's"
    )
    steps: int | None = Field(
        default=None, ge=1, le=10_000, description="sampling steps; empty means the preset's"
    )
    seed: Seed = Field(default=0, description="seed of the sound")
    bridge: Path | None = Field(
        default=None, description="a bridge.safetensors; empty means the preset's own"
    )

    @model_validator(mode="after")
    def _out_is_another_file(self) -> GenerateParameters:
        if self.out == self.video:
            raise ValueError(f"out is the video itself ({self.out}): choose another file")
        return self


class MaintainParameters(Parameters):
    """Keeping the warehouse in order."""

    deep: bool = Field(
        default=True,
        description="read every file and check its checksums, not only names and sizes",
    )
    delete: bool = Field(
        default=True, description="remove what dead runs left behind; off only lists it"
    )


class DownloadParameters(Parameters):
    """From a public corpus, or a list of addresses, to a folder of clips that `curate` takes."""

    source: str = Field(description="kinetics700, or the path of a .csv file with a column url")
    folder: Path | None = Field(
        default=None, description="where the clips go; empty means sources/NAME in the home"
    )
    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        default=("train", "val", "test"), min_length=1, description="splits of kinetics700"
    )
    classes: tuple[str, ...] = Field(
        default=(), description="labels of kinetics700; empty means all"
    )
    archives: int | None = Field(
        default=None, ge=1, description="at most so many archives of each split"
    )
    template: str = Field(default="{label}", description="prompt of a clip; {label} is its class")
    base_url: str = Field(default=BASE_URL, description="where kinetics700 lies")
    workers: int = Field(
        default=8, ge=1, le=256, description="archives, or batches of files, at the same time"
    )
    per_host: int = Field(
        default=4, ge=1, le=64, description="transfers from one host at the same time"
    )
    retries: int = Field(
        default=6, ge=0, le=100, description="tries in a row that may fail before an archive does"
    )

    @field_validator("template")
    @classmethod
    def _template_works(cls, template: str) -> str:
        try:
            template.format(label="x")
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f"{template!r} is no template: it may hold {{label}} and nothing else in braces"
            ) from None
        return template


class SystemFolder(BaseModel):
    """A system: what it is called, and where its sounds are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="name of the system, such as mmaudio", json_schema_extra={"pattern": _NAME}
    )
    folder: Path = Field(description="folder of its sounds, named as the videos are")

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

    checkpoint: str | None = Field(
        default=None, description="id of a checkpoint; empty means the newest"
    )
    seed: Seed = Field(default=0, description="seed of the generated sounds")
    table2: bool = Field(
        default=False, description="all metrics of Table 2 for the held-out clips, too"
    )
    on: Path | None = Field(
        default=None,
        description="folder of an evaluation set; empty means the checkpoint's held-out clips",
    )
    systems: tuple[SystemFolder, ...] = Field(
        default=(), description="systems to score, on held-out clips beside the checkpoint's own"
    )
    reference: Path | None = Field(
        default=None, description="folder of the set's true sounds; empty means the videos' own"
    )
    name: str | None = Field(
        default=None, description="name of the set; empty means the folder's own"
    )
    limit: int | None = Field(
        default=None, ge=1, description="only the first so many videos of the set, by name"
    )
    out: Path | None = Field(
        default=None, description="folder for Table 2 and its page; empty means HOME/reports"
    )
    resamples: int = Field(
        default=200, ge=0, le=100_000, description="bootstrap samples of the Frechet distances"
    )
    imagebind_channel: Literal["mean", "left"] = Field(
        default="mean", description="what ImageBind hears of a stereo sound (the benchmark: left)"
    )
    scaling: Literal["bicubic", "bilinear"] = Field(
        default="bicubic", description="how pictures are brought to size (the benchmark: bicubic)"
    )

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
    def _no_option_is_dropped(self) -> EvaluateParameters:
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        if self.on is not None:
            if not self.systems:
                raise ValueError("no system to evaluate: give at least one, as NAME=FOLDER")
            _refuse(given, ("checkpoint", "seed"), "goes with held-out clips, not with a set (on)")
            return self
        _refuse(given, ("reference", "limit", "name"), "goes with an evaluation set: give on, too")
        if not self.with_table2:
            table = ("out", "resamples", "imagebind_channel", "scaling")
            _refuse(given, table, "goes with Table 2: give table2 (--table), too")
        return self


def _refuse(given: set[str], names: tuple[str, ...], why: str) -> None:
    """Raises ValueError where one of the names is given."""
    for name in names:
        if name in given:
            raise ValueError(f"{name} {why}")


class DemoParameters(BatchParameters):
    """The main job, end to end, on clips that are rendered here."""

    home: Path = Field(
        default_factory=lambda: Path("foley-demo").absolute(), description="folder with all state"
    )
    batch_size: int | None = Field(default=82, ge=1, le=65536, description="clips a task")
    max_attempts: int = Field(
        default=1, ge=1, le=100, description="rendered clips that are broken stay so: once will do"
    )
    clips: int = Field(
        default=320,
        ge=64,
        le=100_000,
        description="good clips to render; half as many flawed and a few broken ones on top",
    )
    seed: Seed = Field(default=0, description="seed of clips, training and generated sounds")
    steps: Steps | None = Field(
        default=None, description="optimiser steps; empty means the preset's"
    )
