"""Commands from clips to a trained bridge, each of which runs the flow of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foley.cli.options import (
    DATASET,
    FOLDER,
    HOME,
    PRESET,
    SEED,
    STEPS,
    WEIGHTS,
    WORKERS,
    check_dataset,
    check_media,
    check_policy,
    check_source,
    checked,
    home_folder,
)
from foley.cli.quiet import quietly


@click.command()
@click.argument("source", callback=checked(check_source))
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@HOME
@click.option(
    "--splits",
    multiple=True,
    type=click.Choice(["train", "val", "test"]),
    help="Splits.  [default: all]",
)
@click.option(
    "--classes", multiple=True, help="Labels of kinetics700, one an option.  [default: all]"
)
@click.option("--archives", type=click.IntRange(1), help="At most so many archives of each split.")
@click.option("--template", default="{label}", show_default=True, help="Prompt of a clip.")
@click.option("--base-url", help="Another mirror of kinetics700.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=8, show_default=True, help="Archives at once."
)
def download(home: Path | None, **options: Any) -> None:
    """Fetch kinetics700, or the addresses of a .csv file, into FOLDER."""
    from foley.cli.launch import run_flow
    from foley.cli.output import downloaded

    with quietly():
        given = {name: value for name, value in options.items() if value not in (None, ())}
        result = run_flow("download", home_folder(home), given)
    click.echo(downloaded(result))


@click.command()
@click.argument("folder", type=FOLDER, callback=checked(check_media))
@HOME
@PRESET
@WEIGHTS
@click.option(
    "--policy",
    default="all",
    show_default=True,
    callback=checked(check_policy),
    help="all, hunyuan, mova, strict, toy, or a .toml file.",
)
@click.option("--dataset", help="Name of the dataset.  [default: the policy's]")
@WORKERS
def curate(home: Path | None, **options: Any) -> None:
    """Probe, score and select the videos in FOLDER, and cache their features."""
    from foley.cli.launch import run_flow
    from foley.cli.output import curated

    with quietly():
        result = run_flow("curate", home_folder(home), options)
    click.echo(curated(result))


@click.command()
@HOME
@PRESET
@WEIGHTS
@DATASET
@STEPS
@click.option("--subset", type=click.Choice(["sft", "ablation"]), help="Train on this subset only.")
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, help="Processes that train together."
)
@SEED
def train(home: Path | None, **options: Any) -> None:
    """Train the bridge on a dataset's cached features."""
    from foley.cli.launch import run_flow

    folder = home_folder(home)
    check_dataset(folder, options["dataset"])
    with quietly():
        result = run_flow("train", folder, options)
    before = "" if result.trained else "Nothing to do, it was trained before: "
    click.echo(f"{before}checkpoint {result.id}")
    click.echo(str(result.path))


@click.command()
@click.argument("what", type=click.Choice(["pooling", "curation"]))
@HOME
@PRESET
@WEIGHTS
@DATASET
@click.option(
    "--poolings", help="Variants of pooling, such as frame,grid2.  [default: the preset's]"
)
@click.option(
    "--marks",
    help="Steps to score at, such as 100,200.  [default: the preset's; curation: the last]",
)
@SEED
@WORKERS
def ablate(home: Path | None, poolings: str | None, marks: str | None, **options: Any) -> None:
    """Train with one thing changed, and compare on the same held-out clips.

    pooling: on differently pooled video tokens (the paper's Table 1). curation: on what the
    dataset's policy kept, and on all that it judged and that decodes.
    """
    from foley.cli.launch import run_flow

    folder = home_folder(home)
    check_dataset(folder, options["dataset"])
    lists = {"poolings": poolings, "marks": marks}
    options |= {name: tuple(text.split(",")) for name, text in lists.items() if text}
    with quietly():
        page = run_flow("ablate", folder, options)
    click.echo(page.read_text())
    click.echo(str(page))
