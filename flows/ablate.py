"""The ablate flow: the same training on differently pooled video tokens, scored at the same steps."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.bars import bar
from flows.cores import all_cores
from flows.curate import all_stages, feature_fingerprints
from flows.parameters import AblateParameters
from flows.results import machine, versions
from flows.runs import clear_errors, recorded
from flows.stages import run_stages
from flows.train import newest_dataset, train_on
from model.presets import Preset, load_preset
from pipeline.ablate import Mark, score_mark, table, variant, write_results
from pipeline.curation import feature_stages
from pipeline.engine import fingerprints
from pipeline.provenance import code_revision
from pipeline.train import Checkpoint
from warehouse import Dataset, FoleyError, Warehouse


@flow(name="ablate", flow_run_name="ablate pooling")
@clear_errors
def ablate(parameters: AblateParameters) -> Path:
    """Train each pooling on the dataset's ablation subset and score it at every mark; returns the page with the table.

    What was cached, trained or scored before is found again. Raises FoleyError for a pooling that the encoder cannot
    give, and when a split of the dataset is empty.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    started = perf_counter()
    with recorded(wh, "ablate", parameters) as record:
        dataset = newest_dataset(wh) if parameters.dataset is None else wh.dataset(parameters.dataset)
        record["dataset"] = dataset.version
        wanted = dataset.clip_ids("train", "ablation") + dataset.clip_ids("val") + dataset.clip_ids("test")
        if not dataset.clip_ids("train", "ablation") or not dataset.clip_ids("test"):
            raise FoleyError(f"{dataset.version} has no ablation subset or no test split: select more clips")
        marks: list[Mark] = []
        steps = sorted(parameters.marks or preset.ablation.marks)
        for pooling in parameters.poolings or preset.ablation.poolings:
            changed = variant(preset, pooling, steps)
            fps = fingerprints(all_stages(changed))
            run_stages(wh, feature_stages(changed), fps, parameters, wanted)
            fps = feature_fingerprints(changed)
            checkpoint = train_on(wh, dataset, changed, parameters.seed, "ablation", parameters.processes)
            marks += score_variant(wh, dataset, changed, fps, checkpoint, steps)
        facts = {"dataset": dataset.version, "clips": len(dataset.clip_ids("train", "ablation")), "preset": preset.name}
        facts |= {"held_out_clips": len(dataset.clip_ids("test")), "seconds": round(perf_counter() - started)}
        facts |= {"machine": machine(), "versions": versions(), "commit": code_revision()}
        page = write_results(wh.folder("reports") / "ablation", marks, facts)
        get_run_logger().info("%s\n%s", page, table(marks))
    return page


@task(name="score", task_run_name="score {changed.video.pooling}", cache_policy=NO_CACHE, persist_result=False)
def score_variant(
    wh: Warehouse, dataset: Dataset, changed: Preset, fps: dict[str, str], checkpoint: Checkpoint, marks: list[int]
) -> list[Mark]:
    """Figures of one variant at every mark."""
    ids = {step: f"{checkpoint.id}-step{step:06d}" for step in marks[:-1]} | {marks[-1]: checkpoint.id}
    found: list[Mark] = []
    with all_cores(), bar(f"score {changed.video.pooling}", len(marks)) as progress:
        for step, id in ids.items():
            found.append(score_mark(wh, dataset, fps, changed, id, step))
            progress.update()
    return found
