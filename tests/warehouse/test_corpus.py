"""What runs that name nothing take: the warehouse's own dataset and policy, whatever clocks say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.parameters import CurateParameters, TrainParameters
from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import Facts, make_files, run_once
from warehouse import Dataset, FoleyError, Warehouse, query
from warehouse.datasets.corpus import (
    CorpusSettings,
    Models,
    Splits,
    choose_dataset,
    corpus_file,
    corpus_settings,
    settle,
)

FPS = fingerprints([Facts()])


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", 6))
    run_once(warehouse, [Facts()])
    return warehouse


def version(wh: Warehouse, name: str, number: int, **changes: str) -> Dataset:
    """A version by a policy of that number; `changes` are of its record."""
    dataset = select(wh, FPS, Policy("p", number, (), val=0.1, test=0.2, seed=3), name=name)
    path = dataset.path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return dataset


def test_the_newest_version_is_the_one_selected_last_whatever_clocks_say(wh: Warehouse) -> None:
    with pytest.raises(FoleyError, match=r"no dataset in .* yet: run foley curate FOLDER"):
        choose_dataset(wh)
    version(wh, "own", 1, created_at="2030-01-01T00:00:00+00:00")
    second = version(wh, "own", 2, created_at="2020-01-01T00:00:00+00:00")  # a clock went back
    version(wh, "trial", 3, created_at="2040-01-01T00:00:00+00:00")
    assert choose_dataset(wh).version == second.version
    assert choose_dataset(wh, "trial").number == 1
    settle(wh, CorpusSettings(), dataset="trial")
    assert choose_dataset(wh).name == "trial"


def test_a_warehouse_from_before_goes_on_with_what_was_selected_last(wh: Warehouse) -> None:
    """Policy and splits too: the policy as the run that made the version was given it."""
    version(wh, "old", 1, created_at="2025-01-01T00:00:00+00:00")
    last = version(wh, "older", 2, created_at="2025-01-02T00:00:00+00:00")
    given = {
        "policy": "/policies/mine.toml",
        "preset": "paper",
        "weights": None,
        "settings": ["a=1"],
    }
    run = {"dataset": last.version, "parameters": given}
    wh.write_record("runs", "curate-1", run)
    corpus_file(wh).unlink()
    models = Models("paper", None, ("a=1",))
    expected = CorpusSettings("older", "/policies/mine.toml", models, Splits(0.1, 0.2, 3))
    assert corpus_settings(wh) == expected
    again = select(wh, FPS, Policy("other", 1, (), val=0.3, seed=9), name="old")
    assert again.diff["moved"] == 0
    assert (again.policy["val"], again.policy["seed"]) == (0.1, 3)
    wh.publish()
    meta = query(wh.home, "from meta where key in ('dataset', 'policy') order by key")
    assert meta["value"].to_pylist() == ["older", "/policies/mine.toml"]
    assert corpus_settings(wh) == expected


def test_a_run_that_names_no_preset_takes_what_the_dataset_was_selected_with(
    tmp_path: Path,
) -> None:
    """What it names is on top; a home that is not there stays so."""
    assert TrainParameters(home=tmp_path / "home").models == Models("toy")
    assert not (tmp_path / "home").exists()
    own = tmp_path / "own"
    own.mkdir()
    (own / "preset.toml").write_text('base = "toy"')
    chosen = TrainParameters(home=tmp_path / "home", preset=str(own), settings=("train.steps=7",))
    settle(Warehouse(tmp_path / "home"), CorpusSettings(models=chosen.models))
    nightly = CurateParameters(home=tmp_path / "home", settings=("train.seed=5",))
    assert nightly.models == Models(str(own), None, ("train.steps=7", "train.seed=5"))
    train = nightly.load_preset().train
    assert (nightly.load_preset().name, train.steps, train.seed) == ("own", 7, 5)
    for steps in (9, 7):  # the last one counts, also where it was said before
        again = CurateParameters(home=tmp_path / "home", settings=(f"train.steps={steps}",))
        settle(Warehouse(tmp_path / "home"), CorpusSettings(), models=again.models)
    assert again.load_preset().train.steps == 7
    assert CurateParameters(home=tmp_path / "home", preset="toy").models == Models("toy")


def test_a_version_whose_record_is_damaged_keeps_its_number_and_no_other_gets_it(
    wh: Warehouse,
) -> None:
    first, last = version(wh, "own", 1), version(wh, "own", 2)
    for dataset in (first, last):
        (dataset.path / "dataset.json").write_text('{"name": "o')
    assert version(wh, "own", 3).number == 3
    assert version(wh, "other", 1).number == 1
    again = version(wh, "own", 2)
    assert (again.version, again.path) == (last.version, last.path)
    assert version(wh, "own", 1).version == first.version
