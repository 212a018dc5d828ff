"""The one table of networks that score clips and sounds: see networks.toml."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from model.presets.settings import Settings, load_class


class ModelFiles(Settings):
    """Where a model lies in the folder of weights, and where it is published."""

    path: (
        str  # a file, or transformers' folder: beside the preset.toml, else in the weights' folder
    )
    repo: str | None = None  # its repository on the Hugging Face hub
    revision: str | None = None  # commit, tag or branch; none: what the first fetch found on main
    files: tuple[str, ...] = ()  # names or patterns of the repository's files that are needed
    url: str | None = None  # address of its file, where it is not on the hub
    sha256: str | None = None  # of the file at `url`
    licence: str = "unknown"
    page: str | None = None  # that describes it; none: that of the repository
    gated: bool = False  # whether its licence must be accepted on the page first

    @property
    def source(self) -> str | None:
        """The repository or the address that it is fetched from; None where it is not published."""
        return self.repo or self.url

    @property
    def home_page(self) -> str | None:
        """The page that describes it."""
        return self.page or (f"https://huggingface.co/{self.repo}" if self.repo else None)


class Network(ModelFiles):
    """A network as published, what implements it, and what is kept of it."""

    title: str
    class_name: str = Field(alias="class")
    columns: dict[str, str] = Field(default_factory=dict)
    embeds: tuple[Literal["sound", "video"], ...] = ()

    @property
    def published(self) -> ModelFiles:
        """Its files alone."""
        own = set(ModelFiles.model_fields)
        return ModelFiles.model_validate(self.model_dump(include=own, exclude_unset=True))

    def load_class(self) -> type[Any]:
        """Its class, a `FrozenNetwork` of model/networks/base.py; imports torch."""
        return load_class(self.class_name)


NETWORKS = {
    name: Network.model_validate(values)
    for name, values in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
}
