"""The steps that make the toy preset's weights: `uv run python -m recipes.toy --help`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click

from recipes.toy.recipe import FULL, QUICK, Recipe, card_of, check_made, one_line
from warehouse.files import make_folder

FIGURES = Path(__file__).parent / "figures.json"  # those of the weights that are shipped


def video_encoder(folder: Path, recipe: Recipe) -> None:
    """V-JEPA2, by masked prediction of pictures alone."""
    from recipes.toy.weights import make_video_encoder

    make_video_encoder(folder, recipe)


def backbone(folder: Path, recipe: Recipe) -> None:
    """A random T5, then the VAE and the DiT."""
    from recipes.toy.weights import make_backbone

    make_backbone(folder, recipe)


def networks(folder: Path, recipe: Recipe, only: tuple[str, ...] = ()) -> None:
    """ImageBind, Audiobox, PANNs, PaSST, VGGish and Synchformer."""
    from recipes.toy.networks import make_networks

    make_networks(folder, recipe, only)


def policy(folder: Path, recipe: Recipe) -> None:
    """The thresholds of the policy `toy`, from the scores of FOLDER's networks."""
    from recipes.toy.policy import make_policy, procedural

    make_policy(folder, procedural(recipe.policy_clips))


def bridge(folder: Path, recipe: Recipe) -> None:
    """The bridge, by a `foley demo` in FOLDER/demo with FOLDER's weights."""
    from recipes.toy.bridge import make_bridge

    make_bridge(folder, recipe)


def card(folder: Path, _: Recipe) -> None:
    """MODEL_CARD.md, from what the other steps measured."""
    from recipes.toy.model_card import model_card

    card_of(model_card, folder)


def everything(folder: Path, recipe: Recipe) -> None:
    """All of these, one after the other (about an hour on two cores)."""
    for step in STEPS:
        click.echo(f"{step.__name__.replace('_', '-')}: {step.__doc__}", err=True)
        step(folder, recipe)


STEPS = (video_encoder, backbone, networks, policy, bridge, card)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Make the toy preset's weights, policy and model card in FOLDER; `ship` puts them in place."""


def command(step: Callable[..., None], name: str, *options: click.Option) -> click.Command:
    """A command that runs one step."""

    def run(folder: Path, quick: bool, **choices: tuple[str, ...]) -> None:
        with one_line():
            step(make_folder(folder), QUICK if quick else FULL, **choices)

    folder = click.Argument(["folder"], type=click.Path(file_okay=False, path_type=Path))
    trial = click.Option(["--quick"], is_flag=True, help="A few iterations: does the step run?")
    return click.Command(name, callback=run, params=[folder, trial, *options], help=step.__doc__)


NAMES = click.Choice(["classifiers", "imagebind", "audiobox", "synchformer"])
ONLY = click.Option(["--only"], multiple=True, type=NAMES, help="Only these.  [default: all]")
cli.add_command(command(everything, "all"))
for one in STEPS:
    options = (ONLY,) if one is networks else ()
    cli.add_command(command(one, one.__name__.replace("_", "-"), *options))


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def ship(folder: Path) -> None:
    """Copy FOLDER's weights, card, figures and policy into this repository."""
    from model.presets.preset import CONFIGS
    from pipeline.curation.policy import POLICIES

    with one_line():
        check_made(folder, ("MODEL_CARD.md", "figures.json", "toy.toml"))
    elsewhere = shutil.ignore_patterns("figures.json", "toy.toml", "demo")
    shutil.copytree(folder, CONFIGS / "toy" / "weights", dirs_exist_ok=True, ignore=elsewhere)
    shutil.copy(folder / "figures.json", FIGURES)
    shutil.copy(folder / "toy.toml", str(POLICIES / "toy.toml"))


if __name__ == "__main__":
    cli()
