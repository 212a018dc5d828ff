"""Options that several commands share, and checks of what is given, before anything is started."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from warehouse.errors import FoleyError

PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def checked(check: Callable[[Any], object]) -> Callable[..., Any]:
    """A callback for click that has `check` look at a value, and raise for one that is no good."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if value is not None:
            check(value)
        return value

    return callback


def check_preset(name: str) -> None:
    """Raises ModelError where there is no such preset."""
    from model.presets.preset import load_preset

    load_preset(name)


def check_policy(name: str) -> None:
    """Raises FoleyError where there is no such policy."""
    from pipeline.curation.policy import load_policy

    load_policy(name)


def check_media(folder: Path) -> None:
    """Raises FoleyError for a folder that no clip could come from."""
    from pipeline.curation.sources import holds_media

    if not holds_media(folder):
        raise FoleyError(
            f"{folder}: no media file in this folder, give the folder that holds the clips"
        )


def check_source(source: str) -> None:
    """Raises FoleyError for what `foley download` cannot take."""
    if source != "kinetics700" and not (source.endswith(".csv") and Path(source).is_file()):
        raise FoleyError(f"source {source!r}: give kinetics700, or a .csv file that is there")


def check_device(name: str) -> None:
    """Raises FoleyError for a name of no device, and for a GPU that this machine does not have."""
    from flows.running.devices import devices

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise FoleyError(f"device {name!r}: give auto, cpu, cuda or cuda:N")
    index, count = int(name.partition(":")[2] or 0), len(devices())
    if name.startswith("cuda") and index >= count:
        raise FoleyError(f"device {name!r}: this machine has {count or 'no'} CUDA devices")


def named_folders(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> list[dict[str, str]]:
    """Systems, from NAME=FOLDER. Raises FoleyError for another form, or for no folder."""
    systems: list[dict[str, str]] = []
    for text in texts:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise FoleyError(
                f"--system {text}: give it as NAME=FOLDER, such as mmaudio=results/mmaudio"
            )
        if not Path(folder).is_dir():
            raise FoleyError(f"--system {text}: no folder {folder}")
        systems.append({"name": name, "folder": folder})
    return systems


def check_dataset(home: Path, name: str | None) -> None:
    """Raises FoleyError where the home folder holds no dataset, or none of that name."""
    from warehouse import Warehouse
    from warehouse.datasets.versions import choose_dataset

    if not home.is_dir():
        raise FoleyError(f"there is nothing in {home} yet: run foley curate FOLDER, or give --home")
    choose_dataset(Warehouse(home), name)


def home_folder(home: Path | None, default: str = "~/.foley") -> Path:
    """The folder with all state, as an absolute path."""
    return (home or Path(default)).expanduser().absolute()


HOME = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FOLEY_HOME",
    help="Folder with all state.  [default: ~/.foley]",
)
PRESET = click.option(
    "--preset",
    default="toy",
    show_default=True,
    callback=checked(check_preset),
    help="toy, paper, or a folder with a preset.toml.",
)
WEIGHTS = click.option(
    "--weights", type=FOLDER, help="Folder of weights, in place of the preset's own."
)
NEW_WEIGHTS = click.option("--weights", type=PATH, help="Folder of weights; made where it is none.")
DATASET = click.option("--dataset", help="Dataset name or version.  [default: the newest]")
STEPS = click.option(
    "--steps", type=click.IntRange(1), help="Training steps.  [default: the preset's]"
)
SEED = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=0,
    help="Batches at once.  [default: one a core]",
)
