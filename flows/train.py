"""The train flow: a dataset version in, a checkpoint out."""

from __future__ import annotations

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.display.artifacts import ProgressArtifact, TrainingCurves, note_asset, show_training
from flows.display.progress_bars import bar
from flows.parameters import TrainParameters
from flows.running.devices import all_cores
from flows.running.recording import one_line_errors, recorded
from model.presets.preset import Preset, load_preset
from model.training.trainer import Progress
from pipeline.curation.stage_graph import StageGraph
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from pipeline.training.distributed import train_in_processes
from pipeline.training.train import train as train_bridge
from warehouse import Warehouse
from warehouse.datasets.versions import choose_dataset

_LOG_EVERY = 50  # steps


@flow(name="train", flow_run_name="train seed {parameters.seed}")
@one_line_errors
def train(parameters: TrainParameters) -> Checkpoint:
    """Train the bridge on a dataset's cached features, or find the checkpoint of the same settings.

    Raises FoleyError when there is no such dataset, or its features are not cached.
    """
    wh = Warehouse(parameters.home)
    preset = with_steps(load_preset(parameters.preset, parameters.weights), parameters.steps)
    with recorded(wh, "train", parameters) as record:
        dataset = choose_dataset(wh, parameters.dataset)
        record["dataset"] = dataset.version
        fingerprints = StageGraph(preset).feature_fingerprints
        data = DatasetFeatures(wh, dataset, preset, fingerprints, parameters.subset)
        checkpoint = train_on(data, parameters.seed, parameters.processes)
        record["checkpoint"] = checkpoint.id
        facts = {"steps": checkpoint.record["steps"], "loss": checkpoint.record["losses"][-1][1]}
        note_asset("checkpoint", checkpoint.id, [("dataset", dataset.version)], facts)
        if not checkpoint.trained:
            get_run_logger().info("nothing to do: checkpoint %s was trained before", checkpoint.id)
    return checkpoint


def with_steps(preset: Preset, steps: int | None) -> Preset:
    """The preset with another number of training steps."""
    if steps is None:
        return preset
    return preset.model_copy(update={"train": preset.train.model_copy(update={"steps": steps})})


@task(
    name="train",
    task_run_name="train {data.dataset.version}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def train_on(data: DatasetFeatures, seed: int, processes: int = 1) -> Checkpoint:
    """Training itself, with a bar, curves, and a log line every few steps."""
    steps = data.preset.train.steps
    artifact, curves = ProgressArtifact("train", steps, "steps"), TrainingCurves()
    with all_cores(), bar("train", steps) as progress:

        def show(state: Progress) -> None:
            progress.update(state.step - progress.n)
            progress.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
            artifact.show(state.step)
            curves.add(state)
            _log(state)

        if processes > 1:
            checkpoint = train_in_processes(processes, data, show, seed)
        else:
            checkpoint = train_bridge(data, show, seed)
    record = checkpoint.record
    show_training(record["losses"], record["validation"])  # those before a stop too
    return checkpoint


def _log(state: Progress) -> None:
    if (v := state.validation) is not None:
        losses = f"true {v.true:.4f} null {v.null:.4f} other {v.other:.4f}"
        get_run_logger().info(f"step {state.step}: validation {losses}")
    elif state.step % _LOG_EVERY == 0:
        get_run_logger().info(f"step {state.step}: loss {state.loss:.4f}")
