"""The ablate flow.

The same training with one thing changed, scored at the same steps on the same clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.display.progress_bars import bar
from flows.parameters import AblateParameters
from flows.running.batches import run_stages
from flows.running.devices import all_cores
from flows.running.recording import one_line_errors, recorded
from flows.train import train_on
from model.presets.preset import Preset, load_preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.ablation import (
    Mark,
    pooled,
    score_mark,
    table,
    trained_to,
    uncurated,
    write_results,
)
from pipeline.evaluation.results import machine, versions
from pipeline.generation.provenance import code_revision
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.datasets.versions import newest_dataset


@dataclass(frozen=True)
class Variant:
    """What is trained: by which preset, on which dataset and subset of it."""

    name: str
    preset: Preset
    dataset: Dataset
    subset: str | None

    def clip_ids(self) -> list[str]:
        """Clips that training reads."""
        return self.dataset.clip_ids("train", self.subset) + self.dataset.clip_ids("val")


@flow(name="ablate", flow_run_name="ablate {parameters.what}")
@one_line_errors
def ablate(parameters: AblateParameters) -> Path:
    """Train every variant and score it at every mark on the dataset's test split; returns the page with the table.

    What was cached, trained or scored before is found again. Raises FoleyError for a pooling that
    the encoder cannot give, and when a split of the dataset is empty.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    started = perf_counter()
    with recorded(wh, "ablate", parameters) as record:
        dataset = (
            newest_dataset(wh) if parameters.dataset is None else wh.dataset(parameters.dataset)
        )
        record["dataset"] = dataset.version
        marks = sorted(parameters.marks or _usual_marks(preset, parameters))
        variants = _variants(wh, trained_to(preset, marks), dataset, parameters)
        held_out = dataset.clip_ids("test")
        if not held_out or not all(v.dataset.clip_ids("train", v.subset) for v in variants):
            raise FoleyError(
                f"{dataset.version} has nothing to train on, or no test split: select more clips"
            )
        found: list[Mark] = []
        for variant in variants:
            graph = StageGraph(variant.preset)
            wanted = sorted({*variant.clip_ids(), *held_out})
            run_stages(wh, graph.features, graph.fingerprints, parameters, wanted)
            data = DatasetFeatures(
                wh, variant.dataset, variant.preset, graph.feature_fingerprints, variant.subset
            )
            checkpoint = train_on(data, parameters.seed, parameters.processes)
            found += score_variant(replace(data, dataset=dataset), variant.name, checkpoint, marks)
        facts = {"dataset": dataset.version, "preset": preset.name, "seed": parameters.seed}
        facts |= {"clips": {v.name: len(v.dataset.clip_ids("train", v.subset)) for v in variants}}
        facts |= {"held_out_clips": len(held_out), "seconds": round(perf_counter() - started)}
        facts |= {"machine": machine(), "versions": versions(), "commit": code_revision()}
        page = write_results(wh.folder("reports") / f"ablation-{parameters.what}", found, facts)
        get_run_logger().info("%s\n%s", page, table(found))
    return page


def _usual_marks(preset: Preset, parameters: AblateParameters) -> tuple[int, ...]:
    return preset.ablation.marks if parameters.what == "pooling" else (preset.train.steps,)


def _variants(
    wh: Warehouse, preset: Preset, dataset: Dataset, parameters: AblateParameters
) -> list[Variant]:
    if parameters.what == "pooling":
        return [
            Variant(name, pooled(preset, name), dataset, "ablation")
            for name in parameters.poolings or preset.ablation.poolings
        ]
    return [
        Variant("curated", preset, dataset, None),
        Variant("uncurated", preset, uncurated(wh, dataset), None),
    ]


@task(name="score", task_run_name="score {variant}", cache_policy=NO_CACHE, persist_result=False)
def score_variant(
    data: DatasetFeatures, variant: str, checkpoint: Checkpoint, marks: list[int]
) -> list[Mark]:
    """Figures of one variant at every mark, on the test split of the dataset."""
    ids = {step: f"{checkpoint.id}-step{step:06d}" for step in marks[:-1]} | {
        marks[-1]: checkpoint.id
    }
    found: list[Mark] = []
    with all_cores(), bar(f"score {variant}", len(marks)) as progress:
        for step, id in ids.items():
            found.append(score_mark(data, id, variant, step))
            progress.update()
    return found
