"""The train flow: a dataset version in, a checkpoint out."""

from dataclasses import replace

from prefect import get_run_logger, task

from flows.display.artifacts import ProgressArtifact, TrainingCurves, note_asset, show_training
from flows.display.progress_bars import bar
from flows.parameters import TrainParameters
from flows.running.devices import all_cores
from flows.running.recording import named_flow, recorded
from model.presets.preset import Preset
from model.training.trainer import Progress
from pipeline.curation.stage_graph import StageGraph
from pipeline.training.batches import DatasetFeatures, epoch_facts, epoch_text
from pipeline.training.checkpoints import Checkpoint, choose_checkpoint
from pipeline.training.estimate import Estimate, estimate
from pipeline.training.launch import Layout, train_in_processes
from pipeline.training.parent import Parent
from pipeline.training.train import train as train_bridge
from warehouse import Dataset, Warehouse
from warehouse.datasets.corpus import choose_dataset

_LOG_EVERY = 50  # steps


@named_flow("train on {parameters.subject}")
def train(parameters: TrainParameters) -> Checkpoint | list[Estimate]:
    """Train the bridge on a dataset's cached features, or find the checkpoint of the same settings.

    A dry run says what each training would take. Raises FoleyError when there is no such dataset,
    or its features are not cached.
    """
    wh = Warehouse(parameters.home)
    preset = with_steps(parameters.load_preset(), parameters.steps)
    with recorded(wh, "train", parameters) as record:
        dataset = choose_dataset(wh, parameters.dataset)
        record["dataset"] = dataset.version
        get_run_logger().info("dataset %s: %s", dataset.version, dataset.counts)
        fingerprints = StageGraph(preset).feature_fingerprints
        data = DatasetFeatures(wh, dataset, preset, fingerprints, parameters.subset)
        layout = Layout(parameters.processes, parameters.hosts, parameters.rendezvous)
        seed = preset.train.seed if parameters.seed is None else parameters.seed
        for name in parameters.stages:
            layout.check(preset.training_stage(name)[0].train.micro_batches)
        checkpoint, parent = None, _parent(wh, preset, parameters)
        estimates: list[Estimate] = []
        for name in parameters.stages or (None,):
            if name is not None:
                get_run_logger().info("stage %s", name)
                staged, subset = preset.training_stage(name)
                data = replace(data, preset=with_steps(staged, parameters.steps), subset=subset)
            if parameters.dry_run:
                estimates.append(replace(estimate(data, layout), stage=name))
                continue
            checkpoint = train_on(data, seed, layout, parent)
            parent = Parent(checkpoint)
            record["checkpoint"] = checkpoint.id
            _note(checkpoint, dataset)
    return estimates if checkpoint is None else checkpoint


def _parent(wh: Warehouse, preset: Preset, parameters: TrainParameters) -> Parent | None:
    """The bridge to start from, which is known to fit."""
    if parameters.parent is None:
        return None
    parent = Parent(choose_checkpoint(wh, preset, parameters.parent), parameters.optimiser)
    parent.check(preset)
    return parent


def _note(checkpoint: Checkpoint, dataset: Dataset) -> None:
    facts = {"steps": checkpoint.record["steps"], "loss": checkpoint.record["losses"][-1][1]}
    came_from = [("dataset", dataset.version)]
    if "parent" in checkpoint.record:
        came_from.append(("checkpoint", checkpoint.record["parent"]))
    note_asset("checkpoint", checkpoint.id, came_from, facts)
    if not checkpoint.trained:
        get_run_logger().info("nothing to do: checkpoint %s was trained before", checkpoint.id)


def with_steps(preset: Preset, steps: int | None) -> Preset:
    """The preset with another number of training steps."""
    if steps is None:
        return preset
    return preset.model_copy(update={"train": preset.train.model_copy(update={"steps": steps})})


@task(name="train", task_run_name="train {data.dataset.version}", persist_result=False)
def train_on(
    data: DatasetFeatures, seed: int, layout: Layout, parent: Parent | None = None
) -> Checkpoint:
    """Training itself, with a bar, curves, and a log line every few steps."""
    steps = data.preset.train.steps
    _log_epoch(data)
    artifact, curves = ProgressArtifact("train", steps, "steps"), TrainingCurves()
    with all_cores(), bar("train", steps) as progress:

        def show(state: Progress) -> None:
            progress.update(state.step - progress.n)
            progress.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
            artifact.show(state.step)
            curves.add(state)
            _log(state)

        if layout.count > 1:
            checkpoint = train_in_processes(layout, data, show, seed, parent)
        else:
            checkpoint = train_bridge(data, show, seed, parent=parent)
    record = checkpoint.record
    if "ended_after" in record:
        ended, best = record["ended_after"], record["steps"]
        get_run_logger().info("ended after step %d; step %d is best by validation", ended, best)
    show_training(record["losses"], record["validation"])  # those before a stop too
    return checkpoint


def _log_epoch(data: DatasetFeatures) -> None:
    """Say what an epoch takes of the clips, and what can be done where it cuts much off."""
    facts = epoch_facts(data.split("train"), data.preset.train, data.canvas)
    get_run_logger().info(epoch_text(facts))


def _log(state: Progress) -> None:
    if (v := state.validation) is not None:
        losses = f"true {v.true:.4f} null {v.null:.4f} other {v.other:.4f}"
        get_run_logger().info(f"step {state.step}: validation {losses}")
    elif state.step % _LOG_EVERY == 0:
        get_run_logger().info(f"step {state.step}: loss {state.loss:.4f}")
