"""The ablate flow: the same training with one thing changed, scored at the same marks and clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from model.presets.preset import load_preset
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
from warehouse.datasets.versions import choose_dataset


@flow(name="ablate", flow_run_name="ablate {parameters.what}")
@one_line_errors
def ablate(parameters: AblateParameters) -> Path:
    """Train every variant and score it at every mark on the dataset's test split.

    What was cached, trained or scored before is used again. Returns the page with the table. Raises
    FoleyError for a pooling that the encoder cannot give, and when a split of the dataset is empty.
    """
    wh = Warehouse(parameters.home)
    started = perf_counter()
    with recorded(wh, "ablate", parameters) as record:
        dataset = choose_dataset(wh, parameters.dataset)
        record["dataset"] = dataset.version
        variants = _variants(wh, dataset, parameters)
        held_out = dataset.clip_ids("test")
        clips = {name: v.dataset.clip_ids("train", v.subset) for name, v in variants.items()}
        if not held_out or not all(clips.values()):
            raise FoleyError(
                f"{dataset.version} has nothing to train on, or no test split: select more clips"
            )
        marks: list[Mark] = []
        for name, data in variants.items():
            graph = StageGraph(data.preset)
            ids = sorted({*clips[name], *data.dataset.clip_ids("val"), *held_out})
            run_stages(wh, graph.features, graph.fingerprints, parameters, ids)
            checkpoint = train_on(data, parameters.seed, parameters.processes)
            marks += score_variant(replace(data, dataset=dataset), name, checkpoint)
        facts = {
            "dataset": dataset.version,
            "preset": load_preset(parameters.preset, parameters.weights).name,
            "seed": parameters.seed,
            "clips": {name: len(ids) for name, ids in clips.items()},
            "held_out_clips": len(held_out),
            "seconds": round(perf_counter() - started),
            "machine": machine(),
            "versions": versions(),
            "commit": code_revision(),
        }
        page = write_results(wh.folder("reports") / f"ablation-{parameters.what}", marks, facts)
        get_run_logger().info("%s\n%s", page, table(marks))
    return page


def _variants(
    wh: Warehouse, dataset: Dataset, parameters: AblateParameters
) -> Mapping[str, DatasetFeatures]:
    """What is trained, by the variant's name."""
    preset = load_preset(parameters.preset, parameters.weights)
    pooling = parameters.what == "pooling"
    usual = preset.ablation.marks if pooling else (preset.train.steps,)
    preset = trained_to(preset, sorted(parameters.marks or usual))
    if pooling:
        names = parameters.poolings or preset.ablation.poolings
        presets = {name: pooled(preset, name) for name in names}
        return {
            name: DatasetFeatures(
                wh, dataset, changed, StageGraph(changed).feature_fingerprints, "ablation"
            )
            for name, changed in presets.items()
        }
    data = DatasetFeatures(wh, dataset, preset, StageGraph(preset).feature_fingerprints)
    return {"curated": data, "uncurated": replace(data, dataset=uncurated(wh, dataset))}


@task(name="score", task_run_name="score {variant}", cache_policy=NO_CACHE, persist_result=False)
def score_variant(data: DatasetFeatures, variant: str, checkpoint: Checkpoint) -> list[Mark]:
    """Figures of one variant at every mark, on the test split of the dataset."""
    settings = data.preset.train
    ids = {step: f"{checkpoint.id}-step{step:06d}" for step in settings.keep_steps}
    ids[settings.steps] = checkpoint.id
    marks: list[Mark] = []
    with all_cores(), bar(f"score {variant}", len(ids)) as progress:
        for step, id in ids.items():
            marks.append(score_mark(data, id, variant, step))
            progress.update()
    return marks
