"""Parameters of the flows that make a corpus, and keep it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from flows.parameters.shared import (
    FROM_COMMAS,
    BatchParameters,
    DatasetName,
    ModelParameters,
    Parameters,
    PolicyName,
    SharedOutParameters,
)

Sources = Annotated[tuple[str, ...], FROM_COMMAS]
BASE_URL = "https://s3.amazonaws.com/kinetics/700_2020/"  # Kinetics-700-2020's public mirror


class SelectParameters(ModelParameters):
    """From scores to a dataset version."""

    policy: PolicyName | None = None
    """What is kept: all (what decodes), hunyuan, mova, strict, toy, world, or a .toml file; by
    default the warehouse's policy: the one that its own dataset was last selected by."""
    dataset: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")
    """Name of the dataset; by default the warehouse's own: main, or what its first run named."""
    sources: Sources = ()
    """Sources to select from, such as a,b; all by default."""
    make_default: bool = False
    """Make this dataset and policy the warehouse's own, which scheduled runs and training take."""

    @property
    def rule(self) -> str:
        """What is selected by, as a run's name has it."""
        return self.policy or "by the warehouse's policy"

    @field_validator("policy")
    @classmethod
    def _policy_exists(cls, name: str | None) -> str | None:
        from pipeline.curation.policy import load_policy

        if name is None:
            return None
        load_policy(name)  # raises FoleyError, which says what there is
        return str(Path(name).absolute()) if name.endswith(".toml") else name


class ScanParameters(Parameters):
    """From the folders of the sources to rows of clips."""

    folder: Path | None = None
    """Folder to register as a source and to scan; by default the sources that are registered."""
    name: str | None = None
    """Name of the folder's source; the folder's own name by default."""
    sources: Sources = ()
    """Sources to scan, such as a,b; all by default."""

    @property
    def subject(self) -> str:
        """What is scanned, as a run's name has it."""
        folder = self.folder and self.folder.absolute().name
        return self.name or folder or ",".join(self.sources) or "all sources"

    @model_validator(mode="after")
    def _name_has_a_folder(self) -> Self:
        if self.name and not self.folder:
            raise ValueError(f"name is {self.name!r}, which names a folder: give the folder too")
        return self


class ScoreParameters(SharedOutParameters, ScanParameters):
    """From media files to facts and scores, without a selection."""


class CurateParameters(SharedOutParameters, SelectParameters, ScanParameters):
    """From media files to a dataset version with cached features."""

    folder: Path | None = None
    """Folder to register as a source and to scan; by default the sources that are registered."""
    sources: Sources = ()
    """Sources to scan and to select from, such as a,b; all by default."""
    features: bool = True
    """Compute the features that training reads."""


class FeaturesParameters(BatchParameters):
    """From a dataset version to the features that training reads."""

    dataset: DatasetName = None

    @property
    def subject(self) -> str:
        """Of what, as a run's name has it."""
        return self.dataset or "the newest dataset"


class StagesParameters(BatchParameters):
    """Some stages of a curation: what a run asks of another work pool."""

    stages: Annotated[tuple[str, ...], Field(min_length=1), FROM_COMMAS]
    """Which: scores, such as imagebind,audiobox; with a dataset features, such as video_tokens."""
    policy: PolicyName | None = None
    """Policy whose own stages there are too; the warehouse's by default."""
    sources: Sources = ()
    """Sources whose clips are scored; all by default."""
    dataset: str | None = None
    """Dataset name or version whose features are computed."""

    @property
    def subject(self) -> str:
        """What is done of what, as a run's name has it."""
        return f"{', '.join(self.stages)} of {self.dataset or 'the clips'}"


class DownloadParameters(Parameters):
    """From a public corpus, or a list of addresses, to a folder of clips that `curate` takes."""

    source: str
    """kinetics700, or the path of a .csv file with a column url."""
    folder: Path | None = None
    """Where the clips go; sources/NAME in the home by default."""
    name: str | None = None
    """Name of the source that the folder becomes; the folder's own name by default."""
    splits: Annotated[
        tuple[Literal["train", "val", "test"], ...], Field(min_length=1), FROM_COMMAS
    ] = ("train", "val", "test")
    """Splits of kinetics700."""
    classes: tuple[str, ...] = ()
    """Labels of kinetics700; all by default."""
    archives: int | None = Field(default=None, ge=1)
    """At most so many archives of each split."""
    template: str = "{label}"
    """Prompt of a clip; {label} is its class."""
    base_url: str = BASE_URL
    """Where kinetics700 lies."""
    workers: int = Field(default=8, ge=1, le=256)
    """Archives, or batches of files, at the same time."""
    per_host: int = Field(default=4, ge=1, le=64)
    """Transfers from one host at the same time."""
    retries: int = Field(default=6, ge=0, le=100)
    """Tries in a row that may fail before an archive does."""

    @field_validator("source")
    @classmethod
    def _source_is_there(cls, source: str) -> str:
        is_list = source.lower().endswith(".csv") and Path(source).is_file()
        if source != "kinetics700" and not is_list:
            raise ValueError(f"{source!r}: give kinetics700, or a .csv file that is there")
        return source

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


class MaintainParameters(Parameters):
    """Keeping the warehouse in order."""

    deep: bool = True
    """Read every file and check its checksums, not only names and sizes."""
    delete: bool = True
    """Remove what dead runs left behind; off only lists it."""
    keep: int | None = Field(default=None, ge=1)
    """Versions of each dataset to keep beside those that anything refers to; none: all."""


class ReleaseParameters(Parameters):
    """Giving failed clips their attempts back."""

    stages: Annotated[tuple[str, ...], FROM_COMMAS] = ()
    """Stages whose failed clips are tried again, such as probe,audiobox; all by default."""
    reason: str | None = None
    """Only failures whose error and message are like this SQL pattern: %CUDA%."""


class RetryParameters(SharedOutParameters, ReleaseParameters):
    """Trying failed clips again now."""


class HealthParameters(Parameters):
    """What is no longer well, and is told."""

    days: Annotated[float, Field(gt=0)] | None = 30
    """Days in which every source gives a new clip; empty for a corpus that does not grow."""
    moved: float = Field(default=0.1, ge=0, le=1)
    """The share of clips that are kept moves by no more between two versions of the dataset."""
    failed: float = Field(default=0.05, ge=0, le=1)
    """Of the clips that reach a stage no larger share fails."""
