"""The compare flow: systems (folders of sounds) and an evaluation set in, Table 2 out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.display.progress_bars import bar
from flows.evaluate import evaluate
from flows.parameters import CompareParameters, EvaluateParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.recording import one_line_errors, recorded
from model.presets.preset import load_preset
from pipeline.evaluation.evaluation import (
    Evaluation,
    Setup,
    evaluation_warehouse,
    ingest_files,
    record,
    score,
    write_tables,
)
from pipeline.evaluation.held_out import held_out_set, held_out_systems
from pipeline.evaluation.page import write_page
from pipeline.evaluation.sets import evaluation_set, system
from warehouse import FoleyError, Warehouse


@dataclass(frozen=True)
class Compared:
    """Figures of a comparison, the stages that ran, and the files written."""

    found: Evaluation
    stages: list[StageCounts]
    files: dict[str, Path]


@flow(name="compare", flow_run_name="compare {parameters.out}")
@one_line_errors
def compare(parameters: CompareParameters) -> Compared:
    """Score systems on an evaluation set, or the newest checkpoint's sounds on its held-out clips.

    Raises FoleyError for folders that are not there or in which no name fits.
    """
    wh = Warehouse(parameters.home)
    with recorded(wh, "compare", parameters) as run:
        setup = _setup(wh, parameters)
        own = evaluation_warehouse(wh.home)
        with bar("ingest", 1) as progress:
            sounds, videos = ingest_files(own, setup)
            progress.update()
        counts = run_stages(own, setup.sound_stages, setup.fingerprints, parameters, sounds)
        counts += run_stages(own, setup.video_stages, setup.fingerprints, parameters, videos)
        found = compute(own, setup)
        record(wh, found, setup)
        files = publish(
            parameters.out or wh.folder("reports") / f"evaluation-{found.id}", found, setup
        )
        run |= {
            "checkpoint": setup.checkpoint,
            "stages": [asdict(c) for c in counts],
            "figures": dict(found.systems),
        }
        create_markdown_artifact(
            key="table-2", markdown=files["table2.md"].read_text(), description=found.set_name
        )
        get_run_logger().info("table: %s", files["table2.md"])
    return Compared(found, counts, files)


def _setup(wh: Warehouse, parameters: CompareParameters) -> Setup:
    given = [(system.name, system.folder) for system in parameters.systems]
    preset = load_preset(parameters.preset, parameters.weights)
    how = (parameters.imagebind_channel, parameters.scaling, parameters.resamples)
    if parameters.on is not None:
        if not given:
            raise FoleyError("no system to evaluate: give at least one --system NAME=FOLDER")
        evaluated = evaluation_set(
            parameters.on, parameters.name, parameters.reference, parameters.limit
        )
        return Setup(evaluated, [system(*s, evaluated.items) for s in given], preset, *how)
    kept = set(EvaluateParameters.model_fields)
    shared = {name: value for name, value in parameters if name in kept}
    made = evaluate(EvaluateParameters(**shared))
    dataset, checkpoint = made.data.dataset, made.checkpoint
    evaluated = held_out_set(wh, dataset)
    own = held_out_systems(wh, evaluated, checkpoint, made.data.fingerprints)
    systems = own + [system(*s, evaluated.items) for s in given]
    return Setup(evaluated, systems, preset, *how, checkpoint.id, dataset.version)


@task(name="compute", cache_policy=NO_CACHE, persist_result=False)
def compute(wh: Warehouse, setup: Setup) -> Evaluation:
    """Metrics, intervals and tests from the features."""
    with bar("score", len(setup.systems) + 1) as progress:
        return score(wh, setup, progress.update)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(folder: Path, evaluation: Evaluation, setup: Setup) -> dict[str, Path]:
    """Tables and page into a folder; where each file is."""
    with bar("report", 1) as progress:
        files = write_tables(folder, evaluation)
        files["table2.html"] = write_page(folder / "table2.html", evaluation, setup)
        progress.update()
    return files
