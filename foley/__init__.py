"""Synchronised sound for video, and the data factory behind it: the Python API.

    import foley

    sound = foley.load("toy").generate("clip.mp4", "a ball bounces on wood")
    sound.save("out.mp4")

The functions below do what the commands of the same names do. Libraries are loaded by the function
that needs them, so that `import foley` takes no time. What a person can mend is a FoleyError of one
line. May import every room.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    import duckdb

    from flows.curate import Curated
    from flows.evaluate import Evaluated
    from pipeline.generation.generator import SoundGenerator
    from pipeline.training.checkpoints import Checkpoint
    from pipeline.training.estimate import Estimate
    from pipeline.training.feature_dataset import FeatureDataset


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


def load(
    preset: str = "toy",
    *,
    weights: str | Path | None = None,
    settings: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    home: str | Path | None = None,
    device: str = "auto",
    low_memory: bool = False,
) -> SoundGenerator:
    """Load a preset's models, ready to make sound for videos.

    Args:
        preset: toy, world, paper, or a folder that holds a preset.toml.
        weights: folder of weights, in place of the preset's own.
        settings: what is to differ from the preset, each as section.name=value.
        checkpoint: the bridge: an id, "newest", "shipped" or a file; None for the newest that was
            trained for this preset in the home folder, else the one beside the weights.
        home: folder with all state; None for FOLEY_HOME, else ~/.foley.
        device: cpu, cuda, cuda:N, or auto: cuda where there is one.
        low_memory: keep the DiT's matrices in 8 bits, and one model at a time on the device.

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
    from pipeline.training.checkpoints import choose_checkpoint
    from warehouse import Warehouse
    from warehouse.home import home_folder

    chosen = load_preset(preset, Path(weights) if weights else None, settings)
    folder = home_folder(home)
    wh = Warehouse(folder) if folder.is_dir() else None
    bridge = choose_checkpoint(wh, chosen, str(checkpoint) if checkpoint else None)
    return SoundGenerator(chosen, bridge.path, device, low_memory)


def curate(
    folder: str | Path | None = None, *, home: str | Path | None = None, **options: object
) -> Curated:
    """Probe, score and select videos, and cache their features for training.

    Args:
        folder: videos, with a clips.csv of prompts if there is one; it becomes a source. None for
            what is new in all sources.
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
    return _run("curate", home, folder=Path(folder) if folder else None, **options)


@overload
def train(
    *, home: str | Path | None = None, dry_run: Literal[False] = False, **options: object
) -> Checkpoint: ...


@overload
def train(
    *, home: str | Path | None = None, dry_run: Literal[True], **options: object
) -> list[Estimate]: ...


def train(*, home: str | Path | None = None, **options: object) -> Checkpoint | list[Estimate]:
    """Train the bridge on a dataset's cached features, or find what was trained so before.

    Args:
        home: as for :func:`curate`.
        options: `dataset`, `preset`, `steps`, `seed` and the other fields of
            flows.parameters.TrainParameters.

    Returns:
        The checkpoint: its `.id`, and the `.path` of a file; `load(checkpoint=...)` takes either.
        With `dry_run` a list of what each training would take.

    Raises:
        FoleyError: no dataset, or an option out of its limits.

    Example:
        >>> foley.train(home="factory", steps=500)
        >>> sound = foley.load("toy", home="factory").generate("clip.mp4", "a ball on wood")
    """
    return _run("train", home, **options)


def evaluate(*, home: str | Path | None = None, **options: object) -> Evaluated:
    """Score a checkpoint's sounds for the held-out clips of its dataset.

    Args:
        home: as for :func:`curate`.
        options: `checkpoint` (by default as for :func:`load`), `preset`, `seed` and the other
            fields of flows.parameters.EvaluateParameters.

    Returns:
        The figures by name (`.held_out.figures`), the checkpoint that they are of
        (`.held_out.checkpoint`), and Table 2 where it was asked for (`.table2`).

    Raises:
        FoleyError: no checkpoint, or an option out of its limits.

    Example:
        >>> foley.evaluate(home="factory").held_out.figures["sync"]
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
    from warehouse.home import home_folder

    return connect(home_folder(home))


def features(
    home: str | Path | None = None,
    dataset: str | None = None,
    *,
    split: str = "train",
    preset: str = "toy",
    settings: Sequence[str] = (),
) -> FeatureDataset:
    """The cached features of one split of a dataset, for training of one's own.

    Args:
        home: as for :func:`curate`.
        dataset: name or version; None for the newest of the warehouse's own.
        split: train, val or test.
        preset: the one that the dataset was curated with.
        settings: what differed from the preset then, each as section.name=value.

    Returns:
        A map-style torch Dataset, whose `.arrow` is the same as a pyarrow Dataset.

    Raises:
        FoleyError: no such dataset, or no clip of the split has its features.

    Example:
        >>> loader = torch.utils.data.DataLoader(foley.features("factory"), batch_size=8)
        >>> next(iter(loader))["video_tokens"].shape  # [B, effective frames, tokens, width]
    """
    from model.presets.preset import load_preset
    from pipeline.training.feature_dataset import open_features
    from warehouse.home import home_folder
    from warehouse.store import open_warehouse

    wh = open_warehouse(home_folder(home))
    return open_features(wh, dataset, split, load_preset(preset, settings=settings))


def _run(flow: str, home: str | Path | None, **options: object) -> Any:
    from foley.cli.launch import run_flow
    from warehouse.home import home_folder

    return run_flow(flow, home_folder(home), options)
