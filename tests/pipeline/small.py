"""A warehouse with a small curated data set and its features, on which training takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from model.presets.preset import Preset, load_preset
from pipeline.curation.policy import select
from pipeline.curation.sources import folder_source
from pipeline.curation.stage_graph import StageGraph
from pipeline.procedural import Corpus, write_corpus
from pipeline.scoring.loudness import Silence
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Stage
from pipeline.training.batches import DatasetFeatures
from warehouse import Dataset, Warehouse

POLICY = """
name = "all"
version = 1
description = "everything"
[[gate]]
name = "duration"
keep = [{ column = "duration", at_least = 0.5 }]
[splits]
val = 0.2
test = 0.3
seed = 0
"""


SECONDS = (1.0, 1.6, 1.1, 1.3)  # of the clips, four of each


@dataclass(frozen=True)
class Curated:
    wh: Warehouse
    dataset: Dataset
    stages: list[Stage]
    fingerprints: dict[str, str]

    def data(self, preset: Preset, subset: str | None = None) -> DatasetFeatures:
        """What a training by this preset is about."""
        return DatasetFeatures(self.wh, self.dataset, preset, self.fingerprints, subset)


def procedural_clips(folder: Path, corpus: Corpus) -> pa.Table:
    """Write a corpus and list it, as clips to be ingested."""
    write_corpus(folder, corpus)
    return folder_source(folder, f"procedural/{corpus.seed}").clips


def work(
    wh: Warehouse,
    stages: list[Stage],
    fingerprints: Mapping[str, str],
    clip_ids: list[str] | None = None,
) -> int:
    done = 0
    for stage in stages:
        todo = plan(wh, stage, fingerprints, clip_ids)
        done += sum(run_batch(wh, stage, todo, batch).passed for batch in todo.batches)
    return done


def with_training(preset: Preset, **changes: Any) -> Preset:
    return preset.model_copy(update={"train": preset.train.model_copy(update=changes)})


def short_preset() -> Preset:
    """The toy preset with two steps of everything."""
    toy = load_preset("toy")
    short = toy.model_copy(update={"sample": toy.sample.model_copy(update={"steps": 2})})
    return with_training(short, steps=2, batch_size=4, validate_every=1)


def curate(folder: Path, preset: Preset) -> Curated:
    """Sixteen clips of four lengths, selected and split, with features."""
    wh = Warehouse(folder / "home")
    for seed, seconds in enumerate(SECONDS):
        clips = Corpus(4, seed=seed, seconds=seconds, bad=())
        wh.ingest(procedural_clips(folder / f"clips{seed}", clips))
    scoring: list[Stage] = [Probe(), Silence()]
    stages = [*scoring, *StageGraph(preset).features]
    named = fingerprints(stages)
    work(wh, stages, named)
    (folder / "all.toml").write_text(POLICY)
    dataset = select(
        wh, {stage.name: named[stage.name] for stage in scoring}, str(folder / "all.toml")
    )
    return Curated(wh, dataset, stages, named)
