"""How the toy's weights are made: the clips and settings of every training, and a quick trial."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from model.weights.load import WeightsError
from recipes.toy.train_backbone import DitTraining, VaeTraining
from recipes.toy.train_networks import Descent
from recipes.toy.train_video_encoder import VideoTraining
from warehouse.errors import FoleyError


@dataclass(frozen=True, kw_only=True)
class NetworksRecipe:
    """Settings of those trainings that take clips of any kind."""

    audiobox: Descent
    classifiers: Descent
    sounds: int  # of Audiobox, and of the classifiers
    imagebind: Descent
    imagebind_clips: int
    imagebind_side: int = 16  # of the pictures that it learns from
    unseen: int  # clips on which each network is measured


@dataclass(frozen=True, kw_only=True)
class Recipe(NetworksRecipe):
    """Settings of each training, and how many clips it sees."""

    video: VideoTraining
    video_clips: int
    vae: VaeTraining
    dit: DitTraining
    backbone_clips: int
    lengths: Mapping[float, float]  # seconds: share of the clips that the DiT sees at this length
    sync_halves: Descent
    sync_halves_clips: int
    sync: Descent
    sync_clips: int
    sync_offsets: int  # of each clip's sound
    policy_clips: int  # true ones in each corpus, with half as many flawed ones
    demo: Mapping[str, int]  # options of `foley demo`


#: What made the weights that are shipped.
FULL = Recipe(
    video=VideoTraining(),
    video_clips=1200,
    vae=VaeTraining(),
    dit=DitTraining(),
    backbone_clips=1024,
    lengths={4.0: 1.0, 2.0: 0.15, 8.0: 0.15, 12.0: 0.15},
    classifiers=Descent(steps=250, batch_size=16),
    audiobox=Descent(steps=700, batch_size=16, learning_rate=3e-3),
    sounds=512,
    imagebind=Descent(steps=900, batch_size=64, learning_rate=3e-3, warmup=50),
    imagebind_clips=1500,
    sync_halves=Descent(steps=700, batch_size=32),
    sync_halves_clips=300,
    sync=Descent(steps=3000, batch_size=48, learning_rate=1e-3, warmup=100),
    sync_clips=900,
    sync_offsets=6,
    unseen=96,
    policy_clips=160,
    demo={},
)

_FEW = Descent(steps=2, batch_size=4, warmup=1)
#: Shows in seconds that every step still runs; its weights are good for nothing.
QUICK = Recipe(
    video=VideoTraining(steps=2, batch_size=4, warmup=1),
    video_clips=8,
    vae=VaeTraining(steps=2, decoder_steps=1, warmup=1),
    dit=DitTraining(steps=2, batch_size=4, warmup=1),
    backbone_clips=8,
    lengths={4.0: 1.0, 2.0: 0.5},
    classifiers=_FEW,
    audiobox=_FEW,
    sounds=8,
    imagebind=_FEW,
    imagebind_clips=8,
    sync_halves=_FEW,
    sync_halves_clips=4,
    sync=_FEW,
    sync_clips=4,
    sync_offsets=2,
    unseen=8,
    policy_clips=12,
    demo={"clips": 64, "steps": 2},
)


class Figures:
    """What was measured while weights were made: FOLDER/figures.json, which the card shows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "figures.json"
        self.values: dict[str, Any] = (
            json.loads(self.path.read_text()) if self.path.is_file() else {}
        )

    def add(self, section: str, values: Mapping[str, Any]) -> None:
        """Write figures into a section, beside those that are there."""
        self.values[section] = self.values.get(section, {}) | values
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")

    @contextmanager
    def timed(self, what: str) -> Generator[None]:
        """Write down the processor time of what is done inside."""
        started = time.process_time()
        yield
        self.add("cpu_seconds", {what: round(time.process_time() - started)})


@contextmanager
def one_line() -> Generator[None]:
    """Have a mistake of the user end the command with one line and exit code 2."""
    try:
        yield
    except WeightsError as error:
        raise click.UsageError(f"{error}; here the steps before this one make them") from None
    except FoleyError as error:
        raise click.UsageError(str(error)) from None


def card_of(model_card: Callable[[dict[str, Any], Path], str], folder: Path) -> None:
    """Write a folder's MODEL_CARD.md. Raises FoleyError where a step's figures are not there."""
    figures = Figures(folder)
    try:
        card = model_card(figures.values, folder)
    except KeyError as error:
        raise FoleyError(f"{figures.path} has no {error}: run the other steps first") from None
    (folder / "MODEL_CARD.md").write_text(card)


def check_made(folder: Path, files: Iterable[str]) -> None:
    """Raise FoleyError where a folder lacks what `ship` copies: it is no folder of a recipe."""
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise FoleyError(f"{folder} has no {', '.join(missing)}: run all steps in it first")


def train(what: str, steps: int, losses: Iterable[float]) -> None:
    """Run a training, which gives the loss of every step, to its end."""
    for _ in tqdm(losses, f"train {what}", steps):
        pass
