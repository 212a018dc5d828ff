"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

HOME = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="FOLEY_HOME",
    help="Folder with all state.  [default: ~/.foley]",
)
PRESET = click.option(
    "--preset", default="toy", show_default=True, help="toy, paper, or a folder with a preset.toml."
)
WEIGHTS = click.option(
    "--weights", type=click.Path(path_type=Path), help="Folder of weights, not the preset's own."
)
SEED = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=0,
    help="Batches at once.  [default: one a core]",
)


def home_folder(home: Path | None, default: str = "~/.foley") -> Path:
    """The folder with all state, as an absolute path."""
    return (home or Path(default)).expanduser().absolute()
