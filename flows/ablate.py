"""The ablate flow: the same training with one thing changed, scored at the same marks and clips."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from prefect import get_run_logger, task

from flows.display.progress_bars import step
from flows.parameters import AblateParameters
from flows.running.batches import run_stages
from flows.running.devices import all_cores
from flows.running.recording import named_flow, recorded
from flows.train import train_on
from model.presets.preset import Preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation import ablation
from pipeline.evaluation.results import machine, versions
from pipeline.generation.provenance import code_revision
from pipeline.stages.engine import fingerprints
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from pipeline.training.launch import Layout
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.datasets.corpus import choose_dataset


@named_flow("ablate {parameters.what}")
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
        held_out = next(iter(variants.values())).held_out_clips()
        clips = {name: v.dataset.clip_ids("train", v.subset) for name, v in variants.items()}
        if not held_out or not all(clips.values()):
            raise FoleyError(
                f"{dataset.version} has nothing to train on, or no test split: select more clips"
            )
        heard = ablation.true_sound_stages(parameters.load_preset())
        run_stages(wh, heard, fingerprints(heard), parameters, held_out)
        marks: list[ablation.Mark] = []
        for name, data in variants.items():
            graph = StageGraph(data.preset)
            ids = sorted({*clips[name], *data.dataset.clip_ids("val"), *held_out})
            run_stages(wh, graph.features, graph.feature_fingerprints, parameters, ids)
            checkpoint = train_on(data, parameters.seed, Layout(parameters.processes))
            trials = _trials(replace(data, dataset=dataset), name, checkpoint)
            marks += [score(trial, parameters) for trial in trials]
        facts = {
            "dataset": dataset.version,
            "preset": parameters.load_preset().name,
            "seed": parameters.seed,
            "clips": {name: len(ids) for name, ids in clips.items()},
            "held_out_clips": len(held_out),
            "seconds": round(perf_counter() - started),
            "machine": machine(),
            "versions": versions(),
            "commit": code_revision(),
        }
        page = ablation.write_results(
            wh.folder("reports") / f"ablation-{parameters.what}", marks, facts
        )
        get_run_logger().info("%s\n%s", page, ablation.table(marks))
    return page


def _variants(
    wh: Warehouse, dataset: Dataset, parameters: AblateParameters
) -> Mapping[str, DatasetFeatures]:
    """What is trained, by the variant's name."""
    preset = parameters.load_preset()
    pooling = parameters.what == "pooling"
    usual = preset.ablation.marks if pooling else (preset.train.steps,)
    preset = ablation.trained_to(preset, sorted(parameters.marks or usual))

    def of(preset: Preset, subset: str | None, shorter: bool = False) -> DatasetFeatures:
        prints, limit = StageGraph(preset).feature_fingerprints, parameters.limit
        return DatasetFeatures(wh, dataset, preset, prints, subset, limit, shorter)

    if pooling:
        names = parameters.poolings or preset.ablation.poolings
        return {name: of(ablation.pooled(preset, name), "ablation") for name in names}
    data = of(preset, None, bool(parameters.marks))  # shorter than what `foley train` makes
    return {"curated": data, "uncurated": replace(data, dataset=ablation.uncurated(wh, dataset))}


def _trials(data: DatasetFeatures, variant: str, checkpoint: Checkpoint) -> list[ablation.Trial]:
    """A variant at every mark."""
    settings = data.preset.train
    ids = {step: f"{checkpoint.id}-step{step:06d}" for step in settings.keep_steps}
    ids[settings.steps] = checkpoint.id
    kept = {step: ablation.checkpoint_at(data.wh, id) for step, id in ids.items()}
    return [ablation.Trial.of(data, at, variant, step) for step, at in kept.items()]


def score(trial: ablation.Trial, parameters: AblateParameters) -> ablation.Mark:
    """Figures of a trial: those of an earlier run, or from sounds that are made now."""
    if known := trial.known():
        return known
    data = trial.data
    # a bridge is conditioned on one batch of videos at a time
    exclusive = parameters.model_copy(update={"workers": 1})
    with all_cores():
        run_stages(data.wh, [trial.stage], data.fingerprints, exclusive, data.held_out_clips())
        return compute_figures(trial)


@task(name="score", task_run_name="score {trial.variant} {trial.steps}", persist_result=False)
def compute_figures(trial: ablation.Trial) -> ablation.Mark:
    """The figures, from what was heard."""
    with step(f"score {trial.variant}"):
        return trial.score()
