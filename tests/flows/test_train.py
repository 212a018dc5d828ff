"""The train flow: a recipe's stages, each from the one before, and what they would take."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from flows.parameters import TrainParameters
from flows.train import train
from model.presets.preset import load_preset
from pipeline.curation.policy import select
from tests.foley.commands import foley, one_line_error
from tests.pipeline.small import POLICY, Curated, curate
from warehouse import Dataset
from warehouse.catalog.lineage import trace

pytestmark = [pytest.mark.usefixtures("api"), pytest.mark.slow]

#: The clips of 1.3 and 1.6 s, not those of 1.0 and 1.1.
BEST = '[subsets]\nsft = [{ column = "duration", at_least = 1.2 }]\n'
#: The first stage's rate is that of [train], the second's its own.
FAST = ("train.batch_size=2", "train.learning_rate=1e-3", "recipe.sft.train.learning_rate=1e-9")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("train"), load_preset("toy"))


@pytest.fixture(scope="module")
def dataset(small: Curated) -> Dataset:
    policy = small.wh.home.parent / "best.toml"
    policy.write_text(POLICY.replace('name = "all"', 'name = "best"') + BEST)
    scoring = {name: small.fingerprints[name] for name in ("probe", "silence")}
    return select(small.wh, scoring, str(policy))


def parameters(small: Curated, dataset: Dataset, dry_run: bool = False) -> TrainParameters:
    return TrainParameters(
        home=small.wh.home,
        settings=FAST,
        dataset=dataset.version,
        stages=("pretrain", "sft"),
        steps=2,
        dry_run=dry_run,
    )


def test_a_dry_run_says_of_each_stage_what_it_would_take_and_leaves_nothing(
    small: Curated, dataset: Dataset
) -> None:
    before = small.wh.records("checkpoints")
    estimates = train(parameters(small, dataset, dry_run=True))
    assert isinstance(estimates, list)
    clips = [len(dataset.clip_ids("train", subset)) for subset in (None, "sft")]
    assert [found.epoch["clips"] for found in estimates] == clips
    assert [str(found).split("\n")[0].split() for found in estimates] == [
        ["stage", "pretrain"],
        ["stage", "sft"],
    ]
    assert 0 < clips[1] < clips[0]
    assert small.wh.records("checkpoints") == before


def test_the_second_stage_begins_with_the_weights_of_the_first_on_its_own_clips_at_its_own_rate(
    small: Curated, dataset: Dataset
) -> None:
    asked = parameters(small, dataset)
    second = train(asked)
    assert not isinstance(second, list)
    records = {record["id"]: record for record in small.wh.records("checkpoints")}
    first = records[second.record["parent"]]
    assert "parent" not in first
    assert (first["subset"], second.record["subset"]) == (None, "sft")
    rates = [record["training"]["learning_rate"] for record in (first, second.record)]
    assert rates == [1e-3, 1e-9]
    of_first = load_file(second.path.parent.parent / first["id"] / second.path.name)
    of_second = load_file(second.path)
    assert of_first["layers.0.to_out.weight"].abs().max() > 1e-5  # it was trained
    for name, value in of_second.items():
        assert (value - of_first[name]).abs().max() < 1e-6
    small.wh.publish()
    chain = trace(small.wh.home, second.id).to_pylist()
    found = {(row["depth"], row["id"]) for row in chain if row["kind"] == "checkpoint"}
    assert found == {(0, second.id), (1, first["id"])}
    assert dataset.version in {row["id"] for row in chain if row["kind"] == "dataset"}
    again = train(asked)
    assert not isinstance(again, list)
    assert (again.id, again.trained) == (second.id, False)


def test_a_bridge_of_other_layers_is_refused_before_a_server_starts(
    small: Curated, dataset: Dataset
) -> None:
    which = ("--home", small.wh.home, "--dataset", dataset.version, "--from", "shipped")
    done = foley("train", *which, "--set", "bridge.heads=2")
    assert "has layers with bridge.heads = 4" in one_line_error(done)
    assert " start: " not in done.stderr  # the step in which flow and server start
