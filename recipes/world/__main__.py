"""The steps that make the weights of the preset `world`: `python -m recipes.world --help`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click

from recipes.toy.policy import make_policy
from recipes.toy.recipe import Figures, card_of, check_made, one_line
from recipes.world.bridge import PRETRAINED, make_bridge, make_preference
from recipes.world.networks import make_networks, worlds
from recipes.world.weights import FULL, QUICK, Recipe, make_dit, make_vae, make_video_encoder
from warehouse.files import make_folder

FIGURES = Path(__file__).parent / "figures.json"  # those of the weights that are shipped


def make_card(folder: Path, _: Recipe) -> None:
    """Write MODEL_CARD.md, from what the other steps measured."""
    from pipeline.evaluation.results import machine
    from pipeline.generation.provenance import code_revision
    from recipes.world.model_card import model_card

    of, figures = machine(), Figures(folder)
    figures.add(
        "made", {"machine": f"{of['cores']} cores of {of['processor']}", "commit": code_revision()}
    )
    card_of(model_card, folder)


def make_scorers(folder: Path, recipe: Recipe) -> None:
    """Write the scorers of curation, ImageBind and Audiobox, and PANNs and VGGish."""
    make_networks(folder, recipe.networks)


def make_thresholds(folder: Path, recipe: Recipe) -> None:
    """Write the thresholds of the policy `world`, from the scores of FOLDER's networks."""
    make_policy(folder, worlds(recipe.policy_clips))


STEPS: dict[str, Callable[[Path, Recipe], None]] = {
    "video-encoder": make_video_encoder,
    "vae": make_vae,
    "dit": make_dit,
    "bridge": make_bridge,
    "preference": make_preference,
    "networks": make_scorers,
    "policy": make_thresholds,
    "card": make_card,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("step", type=click.Choice([*STEPS, "all", "ship"]))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="A few iterations: does the step run?")
def cli(step: str, folder: Path, quick: bool) -> None:
    """Make weights and model card of the preset `world` in FOLDER, a STEP or all of them.

    `ship` puts them in place. Worlds are rendered into FOLDER/clips (about 10 GB).
    """
    with one_line():
        if step == "ship":
            ship(folder)
            return
        make_folder(folder)
        for name in STEPS if step == "all" else (step,):
            click.echo(f"{name}: {STEPS[name].__doc__}", err=True)
            STEPS[name](folder, QUICK if quick else FULL)


def ship(folder: Path) -> None:
    """Copy weights, card and figures into this repository."""
    from model.presets.preset import CONFIGS
    from pipeline.curation.policy import POLICIES

    check_made(folder, ("MODEL_CARD.md", "figures.json", "world.toml"))
    elsewhere = shutil.ignore_patterns("figures.json", "clips", "world.toml", PRETRAINED)
    shutil.copytree(folder, CONFIGS / "world" / "weights", dirs_exist_ok=True, ignore=elsewhere)
    shutil.copy(folder / "figures.json", FIGURES)
    shutil.copy(folder / "world.toml", str(POLICIES / "world.toml"))


if __name__ == "__main__":
    cli()
