"""Parameters of the flows that train."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from flows.parameters.shared import (
    FROM_COMMAS,
    BatchParameters,
    DatasetName,
    ModelParameters,
    PresetName,
    Processes,
    Seed,
    Steps,
)
from model.presets.preset import Preset
from model.presets.settings import Pooling


class TrainParameters(ModelParameters):
    """From a dataset version to a checkpoint."""

    on_device = True

    dataset: DatasetName = None
    steps: Steps = None
    seed: Seed | None = None
    """Seed of initialisation, order of clips and noise; the preset's by default."""
    subset: Literal["sft", "ablation"] | None = None
    """Train on this subset of the dataset only; on all of it by default."""
    stages: Annotated[tuple[str, ...], FROM_COMMAS] = ()
    """Trainings of the preset's recipe, each from the one before, such as pretrain,sft."""
    parent: str | None = None
    """Checkpoint to start from: an id, newest, shipped or a file; an untrained one by default."""
    optimiser: bool = False
    """Go on with the optimiser and moving average of that checkpoint, too."""
    processes: Processes = 1
    hosts: int = Field(default=1, ge=1, le=1024)
    """Machines that train together; each is given this same command."""
    rendezvous: str | None = Field(default=None, pattern=r"^\S+:\d+$")
    """HOST:PORT at which the machines meet, on one of them."""
    dry_run: bool = False
    """Say what it would take, or why it cannot be, and train nothing."""

    @property
    def subject(self) -> str:
        """What is trained on, as a run's name has it."""
        return self.dataset or "the newest dataset"

    @property
    def devices(self) -> int:
        """None where nothing is trained."""
        return 0 if self.dry_run else super().devices

    @model_validator(mode="after")
    def _hosts_meet(self) -> Self:
        if (self.hosts > 1) != (self.rendezvous is not None):
            raise ValueError("hosts and rendezvous belong together: give both, or neither")
        return self

    @model_validator(mode="after")
    def _beginning_is_clear(self) -> Self:
        if self.optimiser and self.parent is None:
            raise ValueError("optimiser is of the checkpoint to start from: name it, too")
        if self.stages and self.subset:
            raise ValueError("a stage of the recipe names its own subset: leave subset out")
        set_here = {text.partition("=")[0].strip() for text in self.settings}
        if self.stages or "train.preference" in set_here:
            self._check_stages(self.load_preset(), set_here)
        return self

    def _check_stages(self, preset: Preset, set_here: set[str]) -> None:
        """Raise ValueError for a setting that no stage would take, or nothing to begin with."""
        for name in self.stages:
            preset.training_stage(name)
        own = [{f"train.{key}" for key in preset.recipe[name].train} for name in self.stages]
        if own and (lost := set_here.intersection(*own)):
            raise ValueError(
                f"{', '.join(self.stages)} of the recipe has its own {', '.join(sorted(lost))}: "
                "leave out --stages and give all of it by --set, or change the preset"
            )
        first = preset.training_stage(self.stages[0])[0] if self.stages else preset
        if first.train.preference and self.parent is None:
            raise ValueError(
                "train.preference goes on from a trained bridge: name it by --from, such as newest"
            )


class AblateParameters(BatchParameters):
    """The same training with one thing changed.

    How video tokens are pooled, or whether the clips are curated.
    """

    what: Literal["pooling", "curation"]
    """What is changed."""
    dataset: DatasetName = None
    poolings: Annotated[tuple[Pooling, ...], FROM_COMMAS] = ()
    """Variants, such as frame,grid2, no finer than the encoder's grid; the preset's by default."""
    marks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], FROM_COMMAS] = ()
    """Steps to score at, such as 100,200; the preset's by default, for curation the last."""
    limit: int | None = Field(default=None, ge=1)
    """Score on so many clips of the test split only."""
    seed: Seed = 0
    """Seed of initialisation, order of clips and noise."""
    processes: Processes = 1


class DemoParameters(BatchParameters):
    """The main job, end to end, on clips that are rendered here."""

    preset: PresetName = "toy"
    """toy, world, paper, or a folder with a preset.toml."""

    home: Path = Field(default_factory=lambda: Path("foley-demo").absolute())
    """Folder with all state."""
    batch_size: int | None = Field(default=82, ge=1, le=65536)
    """Clips a task."""
    max_attempts: int = Field(default=1, ge=1, le=100)
    """Rendered clips that are broken stay so: once will do."""
    level: int | None = Field(default=None, ge=1, le=3)
    """Render simulated worlds of this level, for the preset world, and train on from its bridge."""
    clips: int = Field(default=320, ge=64, le=100_000)
    """Good clips to render; half as many flawed, a few broken ones and pairs of worlds on top."""
    seed: Seed = 0
    """Seed of clips, training and generated sounds."""
    steps: Steps = None

    @model_validator(mode="before")
    @classmethod
    def _preset_of_worlds(cls, values: object) -> object:
        """Worlds are what the preset world knows, and the toy (a command's default) does not."""
        if isinstance(values, dict) and values.get("level"):
            return values | {"preset": {"toy": "world"}.get(of := values.get("preset", "toy"), of)}
        return values

    @property
    def corpus(self) -> str:
        """Name of the folder of clips, of their source and of their dataset."""
        return f"worlds.{self.level}.{self.seed}" if self.level else f"procedural.{self.seed}"

    @property
    def policy(self) -> str:
        """What its clips are selected by."""
        return "world" if self.level else "toy"

    @property
    def training(self) -> dict[str, Any]:
        """Worlds have the recipe's second stage, from the bridge that many worlds have trained."""
        if not self.level:
            return {"steps": self.steps}
        return {"steps": self.steps, "parent": "shipped", "stages": ("sft",)}
