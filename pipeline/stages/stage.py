"""What a stage is: a batch of clips in, one outcome a clip out.

It knows nothing of flows, catalogs or what is done.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import pyarrow as pa

from model.presets.settings import Precision

#: One clip: the columns of `clips` plus the columns of the stages named in `upstream`.
Clip = Mapping[str, Any]


@dataclass(frozen=True)
class Passed:
    """The clip went through; `columns` are the stage's own."""

    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Rejected:
    """The clip does not go on, for a reason that is a fact of the clip; columns may be kept."""

    reason: str
    columns: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class Failed:
    """Something went wrong with this clip; it is tried again a bounded number of times."""

    error: str
    message: str

    @classmethod
    def from_exception(cls, exc: BaseException) -> Self:
        """The class and the first 2,000 characters of the message of an exception."""
        return cls(type(exc).__name__, (str(exc) or repr(exc))[:2000])


Outcome = Passed | Rejected | Failed

#: Bytes that a process takes beside its models, for Python, its libraries and a batch's media; and
#: what a model computes at most, which is twice the size of its weights where that is less.
_LIBRARIES, _ACTIVATIONS = 2**30, 2**31


@dataclass(frozen=True)
class NoSettings:
    """Settings of a stage that has none."""


class Stage(ABC):
    """A step of the pipeline. Subclasses set the attributes below and write :meth:`process`."""

    #: Name of the stage, of its folder and of its view in the catalog.
    name: str
    #: Raised when the code changes what comes out.
    version: ClassVar[int] = 1
    #: Stages whose `passed` rows are needed first.
    upstream: tuple[str, ...] = ()
    #: Clip columns that the result depends on; rows count only while these are unchanged.
    reads: ClassVar[tuple[str, ...]] = ("sha256",)
    #: Clips that it is for: "all", those that the newest selection "kept", or those it is "asked"
    #: for. Only of the first two it is known how many wait.
    scope: ClassVar[str] = "all"
    #: The stage's own columns (see warehouse.field and warehouse.array_field); names are unique
    #: across stages.
    schema: pa.Schema
    #: Clips a task at most: 1 to 5 minutes of work on one core, or on one device, so that starting
    #: it costs nothing.
    batch_size: int = 256
    #: A frozen dataclass; every field goes into the fingerprint.
    settings: Any = NoSettings()
    #: Type of numbers that its models run in; what is not float32 is part of the model's revision.
    precision: Precision = "fp32"

    @property
    def model_revision(self) -> str:
        """Hash of the content of the weights, empty when there are none."""
        return ""

    def setup(self) -> None:  # noqa: B027 (stages without weights have nothing to set up)
        """Load models: called once a process before :meth:`process`."""

    @property
    def needs(self) -> str:
        """What it is to run on: gpu where it loads a model, and takes a GPU's memory; else cpu."""
        return "cpu" if type(self).setup is Stage.setup else "gpu"

    @property
    def weights(self) -> int:
        """Bytes that its models' weights take in memory; 0 where it has none."""
        return 0

    @property
    def memory(self) -> int:
        """Bytes that a process takes to run it, about.

        `python -m tests.benchmarks stage_memory` measures them at full size.
        """
        return _LIBRARIES + self.weights + min(2 * self.weights, _ACTIVATIONS)

    def running(self) -> AbstractContextManager[object]:
        """What :meth:`process` runs in: the precision of the models."""
        if self.precision == "fp32":
            return nullcontext()
        from model.weights.device import autocast, choose_device

        return autocast(self.precision, choose_device())

    def __getstate__(self) -> dict[str, Any]:
        """Travel to another process without what :meth:`setup` loaded."""
        own = vars(self).get("_before_setup", set(vars(self)))
        return {name: value for name, value in vars(self).items() if name in own} | {
            "_travelled": True
        }

    @abstractmethod
    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One outcome a clip, in order. An exception has the batch run again clip by clip."""
