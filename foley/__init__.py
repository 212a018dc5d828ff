"""Synchronised sound for video, and the data factory behind it: the Python API.

    import foley

    sound = foley.load("toy").generate("clip.mp4", "a ball bounces on wood")
    sound.save("out.mp4")

The functions below do what the commands of the same names do. Libraries are loaded by the function
that needs them, so that `import foley` takes no time. What a person can mend is a FoleyError of one
line. May import every room.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import duckdb

    from flows.curate import Curated
    from flows.evaluate import Evaluated
    from pipeline.generation.generator import SoundGenerator
    from pipeline.training.checkpoints import Checkpoint
    from pipeline.training.feature_dataset import FeatureDataset

P = ParamSpec("P")
R = TypeVar("R")


def _refuse_shadows() -> None:
    """Raise ImportError where a module of the user's own has the name of one of our rooms."""
    for room in ("warehouse", "model", "pipeline", "flows"):
        spec = find_spec(room)
        where = Path(spec.origin if spec and spec.origin else room).absolute()
        if where.parent.parent != Path(__file__).absolute().parents[1]:
            raise ImportError(
                f"{where} takes the place of foley's own package `{room}`: "
                "rename it, or run Python from another folder"
            )


_refuse_shadows()

from warehouse.errors import FoleyError  # noqa: E402 (after the check above)

__all__ = ["FoleyError", "catalog", "curate", "evaluate", "features", "load", "train"]


def _one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Have everything that a person can mend raised as a FoleyError."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            from flows.errors import is_user_error

            if isinstance(error, FoleyError) or not is_user_error(error):
                raise
            raise FoleyError(" ".join(str(error).split())) from error

    return run


@_one_line_errors
def load(
    preset: str = "toy",
    *,
    weights: str | Path | None = None,
    bridge: str | Path | None = None,
    device: str = "auto",
) -> SoundGenerator:
    """Load a preset's models, ready to make sound for videos.

    Args:
        preset: toy, paper, or a folder that holds a preset.toml.
        weights: folder of weights, in place of the preset's own.
        bridge: a bridge.safetensors; None for the one beside the weights.
        device: cpu, cuda, cuda:N, or auto: cuda where there is one.

    Returns:
        A generator; its `generate(video, prompt)` gives a sound with `.audio` (samples in -1..1,
        [channels, n]), `.sample_rate`, `.provenance` and `.save(path)`.

    Raises:
        FoleyError: no such preset or device, or weights that are missing or do not fit.

    Example:
        >>> sound = foley.load("toy").generate("clip.mp4", prompt="a ball bounces on wood")
        >>> sound.save("out.mp4")
    """
    from model.presets.preset import load_preset
    from pipeline.generation.generator import SoundGenerator

    settings = load_preset(preset, Path(weights) if weights else None)
    return SoundGenerator(settings, Path(bridge) if bridge else None, device)


def curate(folder: str | Path, *, home: str | Path | None = None, **options: Any) -> Curated:
    """Probe, score and select the videos of a folder, and cache their features for training.

    Args:
        folder: videos, with a clips.csv of prompts if there is one.
        home: folder with all state; None for FOLEY_HOME, else ~/.foley. So for all functions here.
        options: `preset`, `policy`, `dataset`, `workers` and the other fields of
            flows.parameters.CurateParameters.

    Returns:
        The dataset version (`.dataset`), and what each stage did with how many clips (`.stages`).

    Raises:
        FoleyError: no videos, no such policy or preset, or an option out of its limits.

    Example:
        >>> foley.curate("videos", home="factory", policy="strict").dataset.counts
    """
    from foley.cli.options import check_media

    check_media(Path(folder))
    return _run("curate", home, folder=Path(folder), **options)


def train(*, home: str | Path | None = None, **options: Any) -> Checkpoint:
    """Train the bridge on a dataset's cached features, or find what was trained so before.

    Args:
        home: as for :func:`curate`.
        options: `dataset`, `preset`, `steps`, `seed` and the other fields of
            flows.parameters.TrainParameters.

    Returns:
        The checkpoint: its `.id`, and the `.path` of a file that `load(bridge=...)` takes.

    Raises:
        FoleyError: no dataset, or an option out of its limits.

    Example:
        >>> bridge = foley.train(home="factory", steps=500).path
    """
    from foley.cli.options import check_dataset

    check_dataset(_folder(home), options.get("dataset"))
    return _run("train", home, **options)


def evaluate(*, home: str | Path | None = None, **options: Any) -> Evaluated:
    """Score a checkpoint's sounds for the held-out clips of its dataset.

    Args:
        home: as for :func:`curate`.
        options: `checkpoint` (the newest by default), `preset`, `seed` and the other fields of
            flows.parameters.EvaluateParameters.

    Returns:
        The figures by name (`.figures`), and the checkpoint that they are of.

    Raises:
        FoleyError: no checkpoint, or an option out of its limits.

    Example:
        >>> foley.evaluate(home="factory").figures["sync"]
    """
    return _run("evaluate", home, **options)


def catalog(home: str | Path | None = None) -> duckdb.DuckDBPyConnection:
    """The catalog of a home folder as it was last published, read-only (tables: docs/queries.md).

    Raises:
        FoleyError: nothing was published yet.

    Example:
        >>> foley.catalog("factory").sql("from funnel").show()
    """
    from warehouse.catalog.query import connect

    return connect(_folder(home))


@_one_line_errors
def features(
    home: str | Path | None = None,
    dataset: str | None = None,
    *,
    split: str = "train",
    preset: str = "toy",
) -> FeatureDataset:
    """The cached features of one split of a dataset, for training of one's own.

    Args:
        home: as for :func:`curate`.
        dataset: name or version; None for the newest.
        split: train, val or test.
        preset: the one that the dataset was curated with.

    Returns:
        A map-style torch Dataset, whose `.arrow` is the same as a pyarrow Dataset.

    Raises:
        FoleyError: no such dataset, or no clip of the split has its features.

    Example:
        >>> loader = torch.utils.data.DataLoader(foley.features("factory"), batch_size=8)
        >>> next(iter(loader))["video_tokens"].shape  # [B, effective frames, tokens, width]
    """
    from foley.cli.options import check_dataset
    from pipeline.training.feature_dataset import open_features

    check_dataset(_folder(home), dataset)
    return open_features(_folder(home), dataset, split, preset)


@_one_line_errors
def _run(flow: str, home: str | Path | None, **options: Any) -> Any:
    from foley.cli.launch import run_flow

    return run_flow(flow, _folder(home), options)


def _folder(home: str | Path | None) -> Path:
    from flows.parameters import home_folder

    return Path(home).expanduser().absolute() if home else home_folder()
