"""From a dataset to a checkpoint and its figures, without flows: found again, verified, and traceable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from model.foley import FoleyControl
from model.presets import Preset, load_preset
from model.training import Progress
from pipeline.curation import feature_stages
from pipeline.engine import fingerprints, plan, run_batch
from pipeline.evaluate import evaluate, score_condition
from pipeline.generate import generation_stages
from pipeline.probe import Probe
from pipeline.select import select
from pipeline.silence import Silence
from pipeline.sources import procedural_source
from pipeline.stage import Stage
from pipeline.train import train
from warehouse import Dataset, FoleyError, Warehouse

POLICY = """
name = "all"
version = 1
description = "everything"
[[gate]]
name = "duration"
keep = "duration >= 0.5"
[splits]
val = 0.2
test = 0.3
seed = 0
"""


@dataclass(frozen=True)
class Curated:
    wh: Warehouse
    dataset: Dataset
    stages: list[Stage]
    fps: dict[str, str]


def work(wh: Warehouse, stages: list[Stage], fps: dict[str, str], clip_ids: list[str] | None = None) -> int:
    done = 0
    for stage in stages:
        todo = plan(wh, stage, fps, clip_ids)
        done += sum(run_batch(wh, stage, todo, batch).passed for batch in todo.batches)
    return done


@pytest.fixture(scope="module")
def preset() -> Preset:
    toy = load_preset("toy")
    short = toy.train.model_copy(update={"steps": 2, "batch_size": 4, "validate_every": 1})
    return toy.model_copy(update={"train": short, "sample": toy.sample.model_copy(update={"steps": 2})})


@pytest.fixture
def curated(tmp_path: Path, preset: Preset) -> Curated:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(procedural_source(tmp_path / "clips", 16, seconds=1.0, bad=()).clips)
    scoring: list[Stage] = [Probe(), Silence()]
    stages = [*scoring, *feature_stages(preset)]
    fps = fingerprints(stages)
    work(wh, stages, fps)
    (tmp_path / "all.toml").write_text(POLICY)
    dataset = select(wh, {stage.name: fps[stage.name] for stage in scoring}, str(tmp_path / "all.toml"))
    return Curated(wh, dataset, stages, fps)


def test_a_checkpoint_is_trained_once_and_again_when_its_file_is_damaged(curated: Curated, preset: Preset) -> None:
    seen: list[Progress] = []
    first = train(curated.wh, curated.dataset, curated.fps, preset, seen.append)
    assert first.trained
    assert [progress.step for progress in seen] == [1, 2]
    assert all(progress.validation is not None for progress in seen)
    FoleyControl.from_pretrained(preset, first.path)

    again = train(curated.wh, curated.dataset, curated.fps, preset, seen.append)
    assert not again.trained
    assert again.id == first.id
    assert len(seen) == 2

    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-4] + b"\0\0\0\1")
    restored = train(curated.wh, curated.dataset, curated.fps, preset, seen.append)
    assert restored.trained
    assert first.path.read_bytes() == whole

    other = train(curated.wh, curated.dataset, curated.fps, preset, seen.append, seed=1)
    assert other.id != first.id


def test_an_evaluation_is_made_once_and_leads_back_to_its_dataset(curated: Curated, preset: Preset) -> None:
    checkpoint = train(curated.wh, curated.dataset, curated.fps, preset, lambda _: None)
    stages = generation_stages(curated.wh, curated.dataset, curated.fps, preset, checkpoint.id)
    held_out = curated.dataset.clip_ids(split="test")
    fps = fingerprints([*curated.stages, *stages])
    assert work(curated.wh, stages, fps, held_out) == 4 * len(held_out)
    assert work(curated.wh, stages, fps, held_out) == 0
    figures = evaluate(curated.wh, curated.dataset, fps, preset, checkpoint)
    assert figures["clips"] == len(held_out)
    assert set(figures["sync"]) == {"true", "other", "none"}
    record = curated.wh.records("evaluations")[0]
    assert (record["checkpoint"], record["dataset"]) == (checkpoint.id, curated.dataset.version)
    assert evaluate(curated.wh, curated.dataset, fps, preset, checkpoint) == figures
    assert len(curated.wh.records("evaluations")) == 1


def test_a_dataset_without_features_cannot_be_trained_on(tmp_path: Path, preset: Preset, curated: Curated) -> None:
    nothing = fingerprints([Probe(), Silence(), *feature_stages(preset.model_copy(update={"max_seconds": 0.5}))])
    work(curated.wh, feature_stages(preset.model_copy(update={"max_seconds": 0.5})), nothing, [])
    with pytest.raises(FoleyError, match=r"no clip of .* passed"):
        train(curated.wh, curated.dataset, nothing, preset, lambda _: None)


def test_onsets_at_the_impacts_score_one_and_unknown_clips_do_not_count() -> None:
    truths = {"a": {"impacts": [0.5, 1.0]}, "b": {"impacts": [0.2]}}
    rows = [{"clip_id": "a", "onsets": "[0.5, 1.0]"}, {"clip_id": "b", "onsets": "[0.2]"}]
    stranger = {"clip_id": "c", "onsets": "[3.0]"}
    assert score_condition([*rows, stranger], truths)["f1_60ms"] == 1.0
    assert score_condition([stranger], truths) == {"f1_60ms": None, "f1_100ms": None, "mae_ms": None}
    assert score_condition([rows[0] | {"onsets": "[0.5]"}], truths)["f1_60ms"] == pytest.approx(2 / 3, abs=1e-3)
