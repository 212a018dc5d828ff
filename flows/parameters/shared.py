"""What the parameters of several flows have in common: types of fields, and base classes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    WithJsonSchema,
    model_validator,
)

from warehouse.datasets.corpus import Models, models_of
from warehouse.files import Json
from warehouse.home import home_folder

if TYPE_CHECKING:
    from model.presets.preset import Preset


def _choice(names: tuple[str, ...], other: str) -> WithJsonSchema:
    """A form field with the names to choose from, and text for what is not among them."""
    chosen = {"title": "one that comes with it", "type": "string", "enum": list(names)}
    return WithJsonSchema(
        {"anyOf": [chosen, {"title": other, "type": "string", "pattern": "[/.]"}]}
    )


def _split(values: object) -> object:
    """The items of a list, each of which may be several with commas between them; or of a text."""
    values = [values] if isinstance(values, str) else values
    if isinstance(values, Iterable):
        return tuple(part for value in values for part in str(value).split(","))
    return values


#: Variable of workers without a device where others have one: "pool".
GPU_STAGES = "FOLEY_GPU_STAGES"
OWN = "own"  # preset of runs that name none
FROM_COMMAS = BeforeValidator(_split)
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Steps = Annotated[
    int | None, Field(ge=1, le=10_000_000, description="Optimiser steps; the preset's by default.")
]
Processes = Annotated[
    int,
    Field(
        ge=1,
        le=64,
        description="Processes that train together on this machine, one a GPU where there are any.",
    ),
]
DatasetName = Annotated[
    str | None,
    Field(description="Dataset name or version; the newest of the warehouse's own by default."),
]
CheckpointName = Annotated[
    str | None,
    Field(
        description="Which bridge: an id, newest, shipped, or a file; by default the newest of the "
        "preset in the home, else the shipped one."
    ),
]
PresetName = Annotated[str, _choice((OWN, "toy", "world", "paper"), "a folder with a preset.toml")]
PolicyName = Annotated[
    str, _choice(("all", "hunyuan", "mova", "strict", "toy", "world"), "path of a .toml file")
]


class Model(BaseModel):
    """Parameters that nobody changes; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


_MODEL = ("preset", "weights", "settings")
#: What the work runs on: last in the help of every command, and a group of every form.
MACHINE = (
    *("max_attempts", "batch_size", "workers", "processes", "hosts", "rendezvous"),
    *("runner", "cluster", "device", "gpus", "gpu_stages", "home"),
)


def _in_order(schema: Json) -> None:
    """What a run is about first, then the model, the machine last."""
    fields = schema["properties"]
    last = [name for name in (*_MODEL, *MACHINE) if name in fields]
    first = {name: said for name, said in fields.items() if name not in last}
    schema["properties"] = first | {name: fields[name] for name in last}


class Parameters(Model):
    """What all flows have in common."""

    model_config = ConfigDict(json_schema_extra=_in_order)

    @model_validator(mode="before")
    @classmethod
    def _without_group(cls, values: object) -> object:
        """A form has the machine's fields in a group."""
        if not isinstance(values, dict) or not isinstance(values.get("machine"), dict):
            return values
        rest = {name: value for name, value in values.items() if name != "machine"}
        return rest | values["machine"]

    home: Path = Field(default_factory=home_folder)
    """Folder with all state of this factory; the worker's own by default."""

    #: Whether runs of the flow use a device where there are any.
    on_device: ClassVar[bool] = False

    @property
    def devices(self) -> int:
        """Devices of this machine that a run has to itself: one, `gpus`, or one a process.

        A cluster has its own.
        """
        if not self.on_device or getattr(self, "cluster", None):
            return 0
        return int(getattr(self, "processes", getattr(self, "gpus", 1)))

    @property
    def device_name(self) -> str:
        """Which device that is: auto for any that is free."""
        return str(getattr(self, "device", "auto"))


class ModelParameters(Parameters):
    """Parameters of a flow that uses models."""

    preset: PresetName = OWN
    """own (what the warehouse's own dataset was last selected with, its weights and settings too,
    else toy), toy, world, paper, or a folder with a preset.toml."""
    weights: DirectoryPath | None = None
    """Folder of weights, in place of the preset's own."""
    settings: tuple[str, ...] = ()
    """A setting of the preset that is to differ, as section.name=value: train.batch_size=24."""

    @model_validator(mode="after")
    def _preset_can_be_had(self) -> Self:
        self.load_preset()  # raises ModelError, which says what there is
        return self

    def load_preset(self) -> Preset:
        """The preset with these weights and settings. Raises ModelError."""
        from model.presets.preset import load_preset

        models = self.models
        return load_preset(
            models.preset, Path(models.weights) if models.weights else None, models.settings
        )

    @property
    def models(self) -> Models:
        """Preset, weights and settings: those given, else the warehouse's own."""
        from model.presets.preset import CONFIGS

        if self.preset == OWN:
            own = models_of(self.home)
        elif Path(self.preset).is_dir() and not (CONFIGS / self.preset).is_dir():
            own = Models(str(Path(self.preset).absolute()))
        else:
            own = Models(self.preset)
        weights = str(self.weights.absolute()) if self.weights else own.weights
        given = (*own.settings, *self.settings)  # of a name the last
        settings = {text.partition("=")[0].strip(): text for text in given}
        return replace(own, weights=weights, settings=tuple(settings.values()))


class BatchParameters(ModelParameters):
    """How a flow that runs stages splits its work, and what runs the parts."""

    on_device = True

    workers: int = Field(default=0, ge=0, le=1024)
    """Batches at the same time; 0 means one a processor core."""
    batch_size: int | None = Field(default=None, ge=1, le=65536)
    """Clips a task; the stage's own number by default."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """A clip that failed so often is left alone."""
    runner: Literal["thread", "process", "dask", "ray"] = "thread"
    """What runs the batches: threads or processes of this machine, Dask, or Ray."""
    cluster: str | None = None
    """Address of a Dask scheduler or Ray head; a cluster on this machine by default."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """What models run on: auto (a free GPU, or cpu without one), cpu, cuda or cuda:N."""
    gpus: int = Field(default=1, ge=1, le=64)
    """GPUs of this machine that the run takes, where there are any; several with runner process."""

    @model_validator(mode="after")
    def _cluster_has_a_runner(self) -> BatchParameters:
        if self.cluster and self.runner not in ("dask", "ray"):
            raise ValueError(
                f"cluster is {self.cluster!r} and runner is {self.runner!r}: "
                "choose runner dask or ray"
            )
        if self.cluster and self.device != "auto":
            raise ValueError(f"device is {self.device!r}: a cluster has its own")
        if self.gpus > 1 and (self.runner != "process" or ":" in self.device):
            raise ValueError(
                f"gpus is {self.gpus}, runner {self.runner} and device {self.device}: choose "
                "runner process, and device auto or cuda"
            )
        return self

    @property
    def batches_at_once(self) -> int:
        """`workers`, or the number of cores that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


class SharedOutParameters(BatchParameters):
    """A curation, whose stages run here or in the work pool of what they need."""

    gpu_stages: Literal["here", "pool"] = Field(
        default_factory=lambda: os.environ.get(GPU_STAGES, "here"), validate_default=True
    )
    """Where stages that need a GPU run: here, or in the pool foley-gpu, in a run of its own; by
    default as the worker was started to (FOLEY_GPU_STAGES), else here."""

    @property
    def sends_away(self) -> bool:
        """Whether stages that need a GPU run in another pool; a cluster places them itself."""
        return self.gpu_stages == "pool" and not self.cluster

    @property
    def devices(self) -> int:
        """None where the stages that need one run elsewhere."""
        return 0 if self.sends_away else super().devices

    @property
    def device_name(self) -> str:
        """That of the run that has it."""
        return "auto" if self.sends_away else super().device_name
