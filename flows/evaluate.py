"""The evaluate flow.

A checkpoint in, sounds for the held-out clips and the figures they give out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.display.artifacts import show_figures
from flows.display.progress_bars import bar
from flows.parameters import EvaluateParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.devices import all_cores
from flows.running.recording import one_line_errors, recorded
from model.presets.preset import load_preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.conditions import generation_stages
from pipeline.evaluation.onset_figures import evaluate as score
from pipeline.stages.engine import fingerprints
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from warehouse import FoleyError, Warehouse


@dataclass(frozen=True)
class Evaluated:
    """What came of an evaluation: its figures, and the stages that made the sounds.

    The fingerprints in `data` are of all stages, those included.
    """

    figures: dict[str, Any]
    stages: list[StageCounts]
    data: DatasetFeatures
    checkpoint: Checkpoint


@flow(name="evaluate", flow_run_name="evaluate {parameters.checkpoint}")
@one_line_errors
def evaluate(parameters: EvaluateParameters) -> Evaluated:
    """Generate sound for held-out clips with true, another's and no video and a swapped material, and score it.

    Raises FoleyError when there is no such checkpoint.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    with recorded(wh, "evaluate", parameters) as record:
        checkpoint = _checkpoint(wh, parameters.checkpoint)
        dataset = wh.dataset(checkpoint.record["dataset"])
        record |= {"checkpoint": checkpoint.id, "dataset": dataset.version}
        graph = StageGraph(preset)
        data = DatasetFeatures(wh, dataset, preset, graph.fingerprints)
        stages = generation_stages(data, checkpoint.id, parameters.seed)
        data = replace(data, fingerprints=fingerprints([*graph.stages, *stages]))
        alone = parameters.model_copy(
            update={"workers": 1}
        )  # a bridge watches one video batch at a time
        with all_cores():
            counts = run_stages(
                wh, stages, data.fingerprints, alone, dataset.clip_ids(split="test")
            )
        figures = score_sounds(data, checkpoint)
        record |= {"stages": [asdict(c) for c in counts], "figures": figures}
        get_run_logger().info("sync: %s", figures["sync"])
        show_figures(checkpoint.id, figures)
    return Evaluated(figures, counts, data, checkpoint)


@task(
    name="score", task_run_name="score {checkpoint.id}", cache_policy=NO_CACHE, persist_result=False
)
def score_sounds(data: DatasetFeatures, checkpoint: Checkpoint) -> dict[str, Any]:
    """The figures of the generated sounds, or those found before for the same sounds."""
    with bar("score", 1) as progress:
        figures = score(data, checkpoint)
        progress.update()
    return figures


def _checkpoint(wh: Warehouse, id: str | None) -> Checkpoint:
    """The checkpoint of that id, or the newest."""
    known = sorted(wh.records("checkpoints"), key=lambda record: str(record.get("created_at", "")))
    if not known:
        raise FoleyError(f"there is no checkpoint in {wh.home} yet: run foley train first")
    id = id or str(known[-1]["id"])
    found = find_checkpoint(wh, id)
    if found is None:
        raise FoleyError(
            f"no checkpoint {id!r} in {wh.home}: run foley train, or give one of its ids"
        )
    return found
