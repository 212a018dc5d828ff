"""The compare flow: systems (folders of sounds) and an evaluation set in, Table 2 out."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.display.progress_bars import bar
from flows.evaluate import evaluate
from flows.parameters import CompareParameters, EvaluateParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.recording import clear_errors, recorded
from model.presets.preset import Preset, load_preset
from pipeline.evaluation.held_out import held_out_set, held_out_systems
from pipeline.evaluation.network_stages import Hear, Watch, evaluation_stages
from pipeline.evaluation.page import write_page
from pipeline.evaluation.results import machine, versions
from pipeline.evaluation.run import Evaluation, ingest_files, record, score, workshop, write_tables
from pipeline.evaluation.sets import EvaluationSet, System, evaluation_set, system
from pipeline.generation.provenance import code_revision
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Stage
from pipeline.training.checkpoints import find_checkpoint
from warehouse import FoleyError, Warehouse


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Its figures, the stages that heard and watched, and the files written.
    """

    found: Evaluation
    stages: list[StageCounts]
    files: dict[str, Path]


@flow(name="compare", flow_run_name="compare {parameters.out}")
@clear_errors
def compare(parameters: CompareParameters) -> Compared:
    """Score systems on an evaluation set; without one, the newest checkpoint's sounds on its held-out clips.

    Raises FoleyError for folders that are not there or in which no name fits.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    with recorded(wh, "compare", parameters) as run:
        evaluated, systems, checkpoint = _who(wh, parameters)
        shop = workshop(wh.home)
        hearing, watching = evaluation_stages(
            preset, parameters.imagebind_channel, parameters.scaling
        )
        fps = fingerprints([*hearing, *watching])
        with bar("bring in", 1) as progress:
            clips = ingest_files(shop, evaluated, systems)
            progress.update()
        counts = run_stages(shop, hearing, fps, parameters, clips.sounds)
        counts += run_stages(shop, watching, fps, parameters, clips.videos)
        about = _provenance(preset, hearing + watching, checkpoint)
        found = compute(shop, evaluated, systems, fps, preset, about, parameters.resamples)
        record(wh, found, preset, checkpoint)
        folder = parameters.out or wh.folder("reports") / f"evaluation-{found.id}"
        files = publish(folder, found, evaluated, systems, preset)
        run |= {
            "checkpoint": checkpoint,
            "stages": [asdict(c) for c in counts],
            "figures": dict(found.systems),
        }
        create_markdown_artifact(
            key="table-2", markdown=files["table2.md"].read_text(), description=found.set_name
        )
        get_run_logger().info("table: %s", files["table2.md"])
    return Compared(found, counts, files)


def _who(
    wh: Warehouse, parameters: CompareParameters
) -> tuple[EvaluationSet, list[System], str | None]:
    """The set, the systems, and the checkpoint among them."""
    given = [(system.name, system.folder) for system in parameters.systems]
    if parameters.on is not None:
        if not given:
            raise FoleyError("no system to evaluate: give at least one --system NAME=FOLDER")
        evaluated = evaluation_set(
            parameters.on, parameters.name, parameters.reference, parameters.limit
        )
        return evaluated, [system(name, folder, evaluated.items) for name, folder in given], None
    kept = set(EvaluateParameters.model_fields)
    shared = {name: value for name, value in parameters if name in kept}
    made = evaluate(EvaluateParameters(**shared))
    checkpoint = find_checkpoint(wh, made.checkpoint)
    assert checkpoint is not None
    evaluated = held_out_set(wh, wh.dataset(checkpoint.record["dataset"]))
    own = held_out_systems(wh, evaluated, checkpoint, made.fingerprints)
    return (
        evaluated,
        own + [system(name, folder, evaluated.items) for name, folder in given],
        checkpoint.id,
    )


@task(name="compute", cache_policy=NO_CACHE, persist_result=False)
def compute(
    wh: Warehouse,
    evaluated: EvaluationSet,
    systems: list[System],
    fps: dict[str, str],
    preset: Preset,
    about: dict[str, Any],
    resamples: int,
) -> Evaluation:
    """Metrics, intervals and tests from the kept features."""
    with bar("score", len(systems) + 1) as progress:
        return score(wh, evaluated, systems, fps, preset, about, resamples, progress.update)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(
    folder: Path, found: Evaluation, evaluated: EvaluationSet, systems: list[System], preset: Preset
) -> dict[str, Path]:
    """Tables and page into a folder; where each file is."""
    with bar("report", 1) as progress:
        files = write_tables(folder, found)
        files["table2.html"] = folder / "table2.html"
        write_page(files["table2.html"], found, evaluated, systems, preset)
        progress.update()
    return files


def _provenance(preset: Preset, stages: list[Stage], checkpoint: str | None) -> dict[str, Any]:
    return {
        "preset": preset.name,
        "checkpoint": checkpoint,
        "weights (content hash)": {
            s.kind.stem: s.model_revision for s in stages if isinstance(s, Hear | Watch)
        },
        "stages": {s.name: {"version": s.version, **asdict(s.settings)} for s in stages},
        "commit": code_revision(),
        "machine": machine(),
        "versions": versions() | {"platform": platform.platform()},
    }
