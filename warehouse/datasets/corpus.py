"""What holds for a whole warehouse: its dataset, policy and models, and how videos are split.

HOME/datasets/corpus.json, written by the first selection. Runs that name no dataset, policy or
preset take these, so that a run by schedule does what a person last decided. The splits never
change.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from warehouse.datasets.versions import Dataset, find_dataset, list_datasets, selected_last
from warehouse.errors import FoleyError
from warehouse.files import Json, file_lock, read_json, write_json
from warehouse.home import Home

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Splits:
    """Shares of source videos that are held out, and the seed by which they are drawn."""

    val: float = 0.02
    test: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Models:
    """A preset (a name or a path), where its weights are if elsewhere, and what differs from it."""

    preset: str = "toy"
    weights: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CorpusSettings:
    """`dataset`, `policy` (a name or a path) and `models` of runs that name none; all's splits."""

    dataset: str = "main"
    policy: str = "all"
    models: Models = Models()
    splits: Splits = Splits()


def corpus_file(home: Home) -> Path:
    """Where the settings lie."""
    return home.home / "datasets" / "corpus.json"


def corpus_settings(home: Home) -> CorpusSettings | None:
    """The settings of a warehouse, None before its first selection.

    One that is older than this file goes on with the curated dataset that was selected last.
    """
    if corpus_file(home).is_file():
        raw = read_json(corpus_file(home))
        try:
            models = _models(raw.get("models", {}))
            return CorpusSettings(raw["dataset"], raw["policy"], models, Splits(**raw["splits"]))
        except (AttributeError, KeyError, TypeError) as exc:
            advice = "mend it, or delete it to go on with the dataset that was selected last"
            raise FoleyError(f"{corpus_file(home)} is damaged ({exc}): {advice}") from exc
    last = selected_last(home)
    if last is None:
        return None
    splits = Splits(**{name: last.policy[name] for name in ("val", "test", "seed")})
    run = next((r for r in home.records("runs") if r.get("dataset") == last.version), {})
    parameters: dict[str, object] = run.get("parameters") or {}
    policy = str(parameters.get("policy") or last.policy["name"])
    return CorpusSettings(last.name, policy, _models(parameters), splits)


def _models(raw: Json) -> Models:
    """Those in a file, or in the parameters of a run."""
    weights = raw.get("weights")
    settings = tuple(map(str, raw.get("settings") or ()))
    return Models(str(raw.get("preset") or "toy"), weights and str(weights), settings)


def models_of(home: Path) -> Models:
    """What runs in a home folder use that name no preset; nothing is made where there is none."""
    if not (home / "datasets").is_dir():
        return Models()
    settings = corpus_settings(Home(home))
    return settings.models if settings else Models()


def settle(home: Home, first: CorpusSettings, **changes: object) -> CorpusSettings:
    """Change the dataset, policy or models, and write the settings down.

    `first` are the settings of a warehouse that has none yet.
    """
    with file_lock(home.lock_path("corpus")):
        before = corpus_settings(home)
        settings = replace(before or first, **changes)
        if settings != before or not corpus_file(home).is_file():
            write_json(home.tmp, corpus_file(home), asdict(settings))
    return settings


def choose_dataset(home: Home, name: str | None = None) -> Dataset:
    """A version, or the newest version of a name; without one, of the warehouse's own dataset.

    Raises FoleyError when there is none.
    """
    dataset = find_dataset(home, name) if name is not None else newest_dataset(home)
    if dataset is None:
        raise FoleyError(f"there is no dataset in {home.home} yet: run foley curate FOLDER first")
    return dataset


def newest_dataset(home: Home) -> Dataset | None:
    """The version of the warehouse's own dataset that was selected last, if there is one."""
    settings = corpus_settings(home)
    if settings is None or all(d.name != settings.dataset for d in list_datasets(home)):
        return None
    return find_dataset(home, settings.dataset)
