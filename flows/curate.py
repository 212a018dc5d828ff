"""The curate flow: clips in, facts and scores about them, a dataset version, and its cached features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import note_asset, show_curation, show_report
from flows.bars import bar, follow
from flows.parameters import CurateParameters
from flows.runs import alone, clear_errors, recorded
from flows.stages import StageCounts, run_stages
from model.presets import Preset, load_preset
from pipeline.curation import feature_stages, scoring_stages
from pipeline.engine import fingerprints
from pipeline.look import look
from pipeline.report.curation import write_curation_page
from pipeline.select import load_policy, select
from pipeline.sources import folder_source
from pipeline.stage import Stage
from warehouse import Dataset, FoleyError, IngestResult, Warehouse
from warehouse.datasets import page_of


@dataclass(frozen=True)
class Curated:
    """What came of a curate run."""

    dataset: Dataset
    ingest: IngestResult | None
    scoring: list[StageCounts]
    features: list[StageCounts]

    @property
    def stages(self) -> list[StageCounts]:
        """Counts of all stages, in order."""
        return self.scoring + self.features


def all_stages(preset: Preset) -> list[Stage]:
    """Every stage of curation, in order."""
    return [*scoring_stages(preset), *feature_stages(preset)]


def feature_fingerprints(preset: Preset) -> dict[str, str]:
    """Fingerprints of the stages that training reads; scorers may have changed since without it mattering."""
    fps = fingerprints(all_stages(preset))
    return {stage.name: fps[stage.name] for stage in feature_stages(preset)}


@flow(name="curate", flow_run_name="curate {parameters.policy}", validate_parameters=True)
@clear_errors
def curate(parameters: CurateParameters) -> Curated:
    """Bring in clips, probe and score them, select a dataset version by policy, and cache its features.

    Clips that are done already are not done again. Raises FoleyError for a folder without clips or a wrong policy.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    with recorded(wh, "curate", parameters) as record, alone(wh, "curate"):
        ingested, clip_ids = _ingest(wh, parameters) if parameters.folder else (None, None)
        stages = all_stages(preset)
        fps = fingerprints(stages)
        counts = run_stages(wh, scoring_stages(preset), fps, parameters, clip_ids)
        dataset = select_dataset(wh, preset, fps, parameters.policy, parameters.dataset, clip_ids)
        record["dataset"] = dataset.version
        features: list[StageCounts] = []
        if parameters.features and (kept := dataset.clip_ids()):
            features = run_stages(wh, feature_stages(preset), fps, parameters, kept)
        record["stages"] = [asdict(c) for c in counts + features]
    show_page(wh, dataset)
    return Curated(dataset, ingested, counts, features)


@task(name="report", task_run_name="report {dataset.version}", cache_policy=NO_CACHE, persist_result=False)
def show_page(wh: Warehouse, dataset: Dataset) -> Path:
    """The page of a dataset version under HOME/reports, from the published catalog; made once, and linked to."""
    page = page_of(wh.home, dataset.version)
    if not page.is_file():
        with bar("report", 1) as progress:
            write_curation_page(page, look(wh.home, dataset.version))
            progress.update()
    show_report(page.name, "curation-report")
    return page


def select_dataset(
    wh: Warehouse, preset: Preset, fps: dict[str, str], policy: str, name: str | None, clip_ids: Sequence[str] | None
) -> Dataset:
    """Select by policy and show in the UI what came of it."""
    scoring = {stage.name: fps[stage.name] for stage in scoring_stages(preset)}
    dataset = select(wh, scoring, load_policy(policy), name, clip_ids)
    get_run_logger().info("dataset %s: %s", dataset.version, dataset.counts)
    came_from = [("scores", f"{stage}-{fingerprint}") for stage, fingerprint in scoring.items()]
    note_asset("dataset", dataset.version, came_from, dict(dataset.counts))
    show_curation(wh, dataset)
    return dataset


def _ingest(wh: Warehouse, parameters: CurateParameters) -> tuple[IngestResult, Sequence[str]]:
    """Bring the folder's clips into the warehouse; their ids are what the run is about."""
    folder = Path(parameters.folder or ".")
    listing = folder_source(folder, parameters.source)
    logger = get_run_logger()
    for where, why in listing.skipped:
        logger.warning("passed over %s: %s", where, why)
    if not listing.clips.num_rows:
        raise FoleyError(f"{folder}: no media file in this folder, give the folder that holds the clips")
    with bar("ingest", listing.clips.num_rows, "clip") as progress:
        result = wh.ingest(listing.clips, follow(progress))
    logger.info("ingest: %s", result)
    return result, listing.clips["clip_id"].to_pylist()
