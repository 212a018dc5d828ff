"""The evaluate flow: figures of a checkpoint on its held-out clips, of systems on any set, or both.

The figures of a checkpoint are onset F1, v-loss, prompt swap, and of worlds what else is known.
Table 2 has all metrics of any systems: folders of sounds on an evaluation set, or the checkpoint's
sounds on its held-out clips.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from flows.display.artifacts import show_figures
from flows.display.progress_bars import bar, step
from flows.parameters import EvaluateParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.devices import all_cores
from flows.running.recording import named_flow, recorded
from model.bridge_file import read_bridge_facts
from model.presets.preset import Preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation import evaluation, held_out
from pipeline.evaluation.conditions import generation_stages
from pipeline.evaluation.page import render_page
from pipeline.evaluation.sets import evaluation_set, system
from pipeline.report import write_page
from pipeline.stages.engine import fingerprints
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint, choose_checkpoint
from warehouse import Dataset, Warehouse
from warehouse.datasets.corpus import choose_dataset
from warehouse.files import Json


@dataclass(frozen=True)
class HeldOut:
    """A checkpoint on its held-out clips: its figures, and the stages that made the sounds."""

    figures: Json
    stages: list[StageCounts]
    data: DatasetFeatures  # with the fingerprints of all stages, those included
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Evaluated:
    """Figures of a checkpoint, Table 2, or both; the stages that ran, and the files written."""

    held_out: HeldOut | None
    table2: evaluation.Evaluation | None = None
    stages: list[StageCounts] = field(default_factory=list[StageCounts])
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])


@named_flow("evaluate {parameters.subject}")
def evaluate(parameters: EvaluateParameters) -> Evaluated:
    """Score a checkpoint on its held-out clips, or systems on an evaluation set.

    Raises FoleyError for a checkpoint or folder that does not exist, or in which no name fits.
    """
    wh = Warehouse(parameters.home)
    preset = parameters.load_preset()
    with recorded(wh, "evaluate", parameters) as run:
        result = Evaluated(None)
        if parameters.on is None:
            own = score_held_out(wh, preset, parameters)
            result = Evaluated(own, stages=own.stages)
            run |= {"checkpoint": own.checkpoint.id, "dataset": own.data.dataset.version}
            run["figures"] = own.figures
        if parameters.with_table2:
            setup = _setup(preset, parameters, result.held_out)
            result = score_systems(wh, parameters, setup, result)
            run["table2"] = dict(result.table2.systems) if result.table2 else {}
        run["stages"] = [asdict(count) for count in result.stages]
    return result


def score_held_out(wh: Warehouse, preset: Preset, parameters: EvaluateParameters) -> HeldOut:
    """Make sound for held-out clips with true, another's and no video and a swapped material.

    For worlds also without a prompt: their picture shows the material.
    """
    checkpoint = choose_checkpoint(wh, preset, parameters.checkpoint)
    get_run_logger().info("bridge %s: %s", checkpoint.id, checkpoint.origin)
    facts = read_bridge_facts(checkpoint.path)
    facts.check_tokens(preset, checkpoint.path)
    preset = facts.apply(preset, checkpoint.path)  # clips are given to it as in its training
    dataset = _held_out_of(wh, checkpoint)
    graph = StageGraph(preset)
    data = DatasetFeatures(wh, dataset, preset, graph.feature_fingerprints, limit=parameters.limit)
    stages = generation_stages(data, checkpoint, parameters.seed)
    data = replace(data, fingerprints=fingerprints([*graph.feature_stages, *stages]))
    # a bridge is conditioned on one batch of videos at a time
    exclusive = parameters.model_copy(update={"workers": 1})
    with all_cores():
        clips = data.held_out_clips()
        counts = run_stages(wh, stages, data.fingerprints, exclusive, clips)
    figures = compute_figures(data, checkpoint)
    get_run_logger().info("sync: %s", figures["sync"])
    show_figures(checkpoint.id, figures)
    return HeldOut(figures, counts, data, checkpoint)


@task(name="score", task_run_name="score {checkpoint.id}", persist_result=False)
def compute_figures(data: DatasetFeatures, checkpoint: Checkpoint) -> dict[str, object]:
    """The figures of the generated sounds, or those of an earlier run for the same sounds."""
    with step("score"):
        return held_out.evaluate(data, checkpoint)


def _held_out_of(wh: Warehouse, checkpoint: Checkpoint) -> Dataset:
    """The dataset that a checkpoint was trained on; of a bridge from elsewhere, the newest here."""
    version = checkpoint.record.get("dataset")
    known = {dataset.version for dataset in wh.datasets()}
    return wh.dataset(version) if version in known else choose_dataset(wh)


def _setup(preset: Preset, parameters: EvaluateParameters, own: HeldOut | None) -> evaluation.Setup:
    """The set, and the systems on it: those of the checkpoint first."""
    if own is None:
        assert parameters.on is not None
        evaluated = evaluation_set(
            parameters.on, parameters.name, parameters.reference, parameters.limit
        )
        systems = []
    else:
        evaluated = held_out.held_out_set(own.data)
        systems = held_out.held_out_systems(own.data, own.checkpoint, evaluated.items)
    systems += [system(s.name, s.folder, evaluated.items) for s in parameters.systems]
    return evaluation.Setup(
        evaluated,
        systems,
        preset,
        channel=parameters.imagebind_channel,
        scaling=parameters.scaling,
        resamples=parameters.resamples,
        checkpoint=own.checkpoint.id if own else None,
        dataset=own.data.dataset.version if own else None,
    )


def score_systems(
    wh: Warehouse, parameters: EvaluateParameters, setup: evaluation.Setup, result: Evaluated
) -> Evaluated:
    """Table 2 of a setup, with its records and files."""
    own = evaluation.systems_warehouse(wh.home)
    with step("ingest"):
        sounds, videos = evaluation.ingest_files(own, setup)
    counts = run_stages(own, setup.sound_stages, setup.fingerprints, parameters, sounds)
    counts += run_stages(own, setup.video_stages, setup.fingerprints, parameters, videos)
    table2 = compute_table(own, setup)
    evaluation.record(wh, table2, setup)
    folder = parameters.out or wh.folder("reports") / f"evaluation-{table2.id}"
    files = publish(folder, table2, setup)
    text = files["table2.md"].read_text()
    create_markdown_artifact(key="table-2", markdown=text, description=table2.set_name)
    get_run_logger().info("table: %s", files["table2.md"])
    return replace(result, table2=table2, stages=[*result.stages, *counts], files=files)


@task(name="compute", persist_result=False)
def compute_table(wh: Warehouse, setup: evaluation.Setup) -> evaluation.Evaluation:
    """Metrics, intervals and tests from the features."""
    with bar("score", len(setup.systems) + 1) as progress:
        return evaluation.score(wh, setup, progress.update)


@task(name="publish", persist_result=False)
def publish(
    folder: Path, table2: evaluation.Evaluation, setup: evaluation.Setup
) -> dict[str, Path]:
    """Tables and page into a folder; where each file is."""
    with step("report"):
        files = evaluation.write_tables(folder, table2)
        files["table2.html"] = write_page(folder / "table2.html", render_page(table2, setup))
    return files
