"""The curate flow: clips in; scores, a dataset version and its cached features out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.display.artifacts import note_asset, show_curation, show_report
from flows.display.progress_bars import bar, follow
from flows.parameters import CurateParameters, FeaturesParameters, SelectParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.recording import exclusive, one_line_errors, recorded
from model.presets.preset import load_preset
from pipeline.curation.page import gather_page
from pipeline.curation.policy import load_policy, select
from pipeline.curation.sources import folder_source
from pipeline.curation.stage_graph import StageGraph
from pipeline.report.curation import write_curation_page
from warehouse import Dataset, FoleyError, IngestResult, Warehouse
from warehouse.datasets.versions import choose_dataset, page_of


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


@flow(name="curate", flow_run_name="curate {parameters.policy}", validate_parameters=True)
@one_line_errors
def curate(parameters: CurateParameters) -> Curated:
    """Ingest clips, score them, select a dataset version by policy, and cache its features.

    Clips that are done already are not done again. Raises FoleyError for a folder without clips or
    a wrong policy.
    """
    wh = Warehouse(parameters.home)
    graph = policy_stages(parameters)
    with recorded(wh, "curate", parameters) as record, exclusive(wh, "curate"):
        ingested, clip_ids = _ingest(wh, parameters) if parameters.folder else (None, None)
        counts = run_stages(wh, graph.scoring, graph.fingerprints, parameters, clip_ids)
        dataset = select_dataset(wh, graph, parameters, clip_ids)
        record["dataset"] = dataset.version
        features: list[StageCounts] = []
        if parameters.features and (chosen := dataset.clip_ids()):
            features = run_stages(wh, graph.features, graph.fingerprints, parameters, chosen)
        record["stages"] = [asdict(c) for c in counts + features]
    show_page(wh, dataset)
    return Curated(dataset, ingested, counts, features)


def policy_stages(parameters: SelectParameters) -> StageGraph:
    """The stages of the preset and of the policy, before any of them runs.

    Raises FoleyError where a gate is on a column that none of them gives.
    """
    policy = load_policy(parameters.policy)
    graph = StageGraph(load_preset(parameters.preset, parameters.weights), policy.stages)
    columns = {field.name: field.type for stage in graph.scoring for field in stage.schema}
    policy.check_columns(columns, parameters.policy)
    return graph


@task(
    name="report",
    task_run_name="report {dataset.version}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def show_page(wh: Warehouse, dataset: Dataset) -> Path:
    """The page of a dataset version, made once from the published catalog, and linked to."""
    page = page_of(wh.home, dataset.version)
    if not page.is_file():
        with bar("report", 1) as progress:
            write_curation_page(page, gather_page(wh.home, dataset.version))
            progress.update()
    show_report(page.name, "curation-report")
    return page


def select_dataset(
    wh: Warehouse,
    graph: StageGraph,
    parameters: SelectParameters,
    clip_ids: Sequence[str] | None = None,
) -> Dataset:
    """Select by policy and show in the UI what came of it."""
    scoring = graph.scoring_fingerprints
    dataset = select(wh, scoring, parameters.policy, parameters.dataset, clip_ids)
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
        raise FoleyError(
            f"{folder}: no media file in this folder, give the folder that holds the clips"
        )
    with bar("ingest", listing.clips.num_rows, "clip") as progress:
        result = wh.ingest(listing.clips, follow(progress))
    logger.info("ingest: %s", result)
    return result, listing.clips["clip_id"].to_pylist()


@flow(name="reselect", flow_run_name="reselect {parameters.policy}")
@one_line_errors
def reselect(parameters: SelectParameters) -> Dataset:
    """Select a dataset version from the scores that are there, as after a change of the policy.

    No model runs. The same scores under the same policy give the same version again.
    """
    wh = Warehouse(parameters.home)
    graph = policy_stages(parameters)
    with recorded(wh, "reselect", parameters) as record:
        dataset = select_dataset(wh, graph, parameters)
        record["dataset"] = dataset.version
    show_page(wh, dataset)
    return dataset


@flow(name="features", flow_run_name="features of {parameters.dataset}")
@one_line_errors
def features(parameters: FeaturesParameters) -> list[StageCounts]:
    """Compute the features of a dataset version that training reads and that are not there yet."""
    wh = Warehouse(parameters.home)
    graph = StageGraph(load_preset(parameters.preset, parameters.weights))
    with recorded(wh, "features", parameters) as record:
        dataset = choose_dataset(wh, parameters.dataset)
        record["dataset"] = dataset.version
        clip_ids = dataset.clip_ids()
        counts = run_stages(wh, graph.features, graph.fingerprints, parameters, clip_ids)
        record["stages"] = [asdict(count) for count in counts]
    return counts
