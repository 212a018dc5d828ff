"""The curate flow: clips in; scores, a dataset version and its cached features out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prefect import get_run_logger, task

from flows.display.artifacts import note_asset, show_curation, show_report
from flows.display.progress_bars import bar, follow, step
from flows.parameters import (
    CurateParameters,
    FeaturesParameters,
    ScanParameters,
    ScoreParameters,
    SelectParameters,
    StagesParameters,
)
from flows.running.batches import StageCounts
from flows.running.names import add_to_name
from flows.running.parts import Part, run_part
from flows.running.recording import named_flow, recorded
from pipeline.curation.page import gather_page
from pipeline.curation.policy import load_policy, select
from pipeline.curation.registry import Source, clips_of, register, registered, scan_source
from pipeline.curation.sources import check_media
from pipeline.curation.stage_graph import StageGraph
from pipeline.report import write_page
from pipeline.report.curation import render_curation
from warehouse import Dataset, FoleyError, IngestResult, Warehouse
from warehouse.datasets.corpus import (
    CorpusSettings,
    Models,
    choose_dataset,
    corpus_settings,
    settle,
)
from warehouse.datasets.versions import page_of


@dataclass(frozen=True)
class Curated:
    """What came of a curate run."""

    dataset: Dataset
    ingest: IngestResult
    scoring: list[StageCounts]
    features: list[StageCounts]

    @property
    def stages(self) -> list[StageCounts]:
        """Counts of all stages, in order."""
        return self.scoring + self.features


@dataclass(frozen=True)
class Scanned:
    """What scanning sources brought in, and why some of them could not be scanned."""

    result: IngestResult
    failed: Mapping[str, str]

    def __str__(self) -> str:
        changed = f", {self.result.changed:,} changed" if self.result.changed else ""
        return f"{self.result.new:,} new{changed}"

    @property
    def problem(self) -> str | None:
        """Which sources were not scanned, why, and what to do; None where all were."""
        told = [
            f"source {name}: {why}: mend that, or foley source remove {name}"
            for name, why in self.failed.items()
        ]
        return f"not scanned, all else is done: {'; '.join(told)}" if told else None

    def check(self) -> None:
        """Raise FoleyError where a source could not be scanned."""
        if self.problem:
            raise FoleyError(self.problem)


@dataclass(frozen=True)
class Choice:
    """What a selection is by and about, and whether that is the warehouse's own from now on."""

    policy: str
    dataset: str
    models: Models
    sources: tuple[str, ...]
    lasts: bool


@named_flow("curate {parameters.subject}")
def curate(parameters: CurateParameters) -> Curated:
    """Scan sources, score their clips, select a dataset version by policy, cache its features.

    Clips that are done already are not done again. A registered source that cannot be scanned costs
    the others nothing. Raises FoleyError for it at the end, and at once for a folder without clips,
    a name that is another source's, or a wrong policy.
    """
    wh = Warehouse(parameters.home)
    with recorded(wh, "curate", parameters, alone="curate") as record:
        chosen = _choose(wh, parameters)
        graph = policy_stages(parameters, chosen.policy)
        scanned = _scan(wh, parameters)
        add_to_name(f"curate {parameters.subject}", str(scanned))
        part = Part(chosen.policy, chosen.sources)
        counts = run_part(wh, graph, parameters, part)
        dataset = select_dataset(wh, graph, chosen)
        record["dataset"] = dataset.version
        features: list[StageCounts] = []
        if parameters.features and dataset.counts["kept"]:
            features = run_part(wh, graph, parameters, replace(part, dataset=dataset))
        record["stages"] = [asdict(c) for c in counts + features]
        record["error"] = scanned.problem  # the run fails when the page is there
    show_page(wh, dataset)
    scanned.check()
    return Curated(dataset, scanned.result, counts, features)


@named_flow("scan {parameters.subject}")
def scan(parameters: ScanParameters) -> IngestResult:
    """Take in what is new or changed in the folders of the sources, and do nothing with it yet."""
    wh = Warehouse(parameters.home)
    with recorded(wh, "scan", parameters, alone="curate"):
        scanned = _scan(wh, parameters)
        add_to_name(f"scan {parameters.subject}", str(scanned))
        scanned.check()
    return scanned.result


@named_flow("score {parameters.subject}")
def score(parameters: ScoreParameters) -> list[StageCounts]:
    """Scan sources and score their clips; select nothing."""
    wh = Warehouse(parameters.home)
    with recorded(wh, "score", parameters, alone="curate") as record:
        policy = (corpus_settings(wh) or CorpusSettings()).policy
        graph = StageGraph(parameters.load_preset(), load_policy(policy).stages)
        scanned = _scan(wh, parameters)
        counts = run_part(wh, graph, parameters, Part(policy, parameters.sources))
        record["stages"] = [asdict(count) for count in counts]
        scanned.check()
    return counts


def _scan(wh: Warehouse, parameters: ScanParameters) -> Scanned:
    """Register the folder, if one is given, and scan it; or the sources named, or all of them."""
    if parameters.folder:
        check_media(parameters.folder)
        sources = [register(wh, parameters.folder, parameters.name)]
        if parameters.sources and sources[0].name not in parameters.sources:
            raise FoleyError(
                f"the folder is source {sources[0].name}, which is not among the sources to "
                "select from: name it too"
            )
    else:
        sources = registered(wh, parameters.sources)
    totals, failed = Counter[str](), dict[str, str]()
    for source in sources:
        try:
            totals.update(asdict(_scan_source(wh, source)))
        except FoleyError as error:
            if parameters.folder:
                raise
            get_run_logger().error("source %s: %s", source.name, error)
            failed[source.name] = str(error)
    return Scanned(IngestResult(**totals), failed)


def _scan_source(wh: Warehouse, source: Source) -> IngestResult:
    logger = get_run_logger()
    with bar("ingest", unit="clip") as progress:
        scanned = scan_source(wh, source, follow(progress))
    for where, why in scanned.skipped:
        logger.warning("passed over %s: %s", where, why)
    logger.info("source %s: %s", source.name, scanned.result)
    return scanned.result


def _choose(wh: Warehouse, parameters: SelectParameters) -> Choice:
    """The policy and dataset of a run: its own, else the warehouse's.

    Raises FoleyError where some sources alone would take the others out of the warehouse's dataset.
    """
    settings = corpus_settings(wh) or CorpusSettings()
    dataset = parameters.dataset or settings.dataset
    others = {source.name for source in registered(wh)} - {*parameters.sources}
    if parameters.sources and not parameters.dataset and others:
        raise FoleyError(
            f"a selection from {', '.join(parameters.sources)} alone would take the clips of "
            f"{', '.join(sorted(others))} out of dataset {dataset}: name another by --dataset"
        )
    policy = parameters.policy or settings.policy
    lasts = parameters.make_default or dataset == settings.dataset
    return Choice(policy, dataset, parameters.models, parameters.sources, lasts)


def policy_stages(parameters: SelectParameters, policy_name: str) -> StageGraph:
    """The stages of the preset and of the policy, before any of them runs.

    Raises FoleyError where a gate is on a column that none of them gives.
    """
    policy = load_policy(policy_name)
    graph = StageGraph(parameters.load_preset(), policy.stages)
    columns = {field.name: field.type for stage in graph.scoring for field in stage.schema}
    policy.check_columns(columns, policy_name)
    return graph


@task(name="report", task_run_name="report {dataset.version}", persist_result=False)
def show_page(wh: Warehouse, dataset: Dataset) -> Path:
    """The page of a dataset version, made once from the published catalog, and linked to."""
    page = page_of(wh.home, dataset.version)
    if not page.is_file():
        with step("report"):
            write_page(page, render_curation(gather_page(wh.home, dataset.version)))
    show_report(page.name, "curation-report")
    return page


def select_dataset(wh: Warehouse, graph: StageGraph, chosen: Choice) -> Dataset:
    """Select by policy and show in the UI what came of it."""
    scoring = graph.scoring_fingerprints
    policy, logger = load_policy(chosen.policy), get_run_logger()
    own = CorpusSettings(chosen.dataset, chosen.policy, chosen.models, policy.splits)
    lasting = {"dataset": own.dataset, "policy": own.policy, "models": own.models}
    settle(wh, own, **(lasting if chosen.lasts else {}))
    dataset = select(wh, scoring, chosen.policy, chosen.dataset, clips_of(wh, chosen.sources))
    logger.info("dataset %s by policy %s: %s", dataset.version, chosen.policy, dataset.counts)
    splits = {name: dataset.policy[name] for name in ("val", "test", "seed")}
    if policy.gives_splits and splits != asdict(policy.splits):
        logger.info("splits are the warehouse's, %s: those of a policy are for a new one", splits)
    came_from = [("scores", f"{stage}-{fingerprint}") for stage, fingerprint in scoring.items()]
    note_asset("dataset", dataset.version, came_from, dict(dataset.counts))
    show_curation(wh, dataset)
    return dataset


@named_flow("reselect {parameters.rule}")
def reselect(parameters: SelectParameters) -> Dataset:
    """Select a dataset version from the scores that are there, as after a change of the policy.

    No model runs. The same scores under the same policy give the same version again.
    """
    wh = Warehouse(parameters.home)
    with recorded(wh, "reselect", parameters) as record:
        chosen = _choose(wh, parameters)
        graph = policy_stages(parameters, chosen.policy)
        dataset = select_dataset(wh, graph, chosen)
        record["dataset"] = dataset.version
        kept, clips = dataset.counts["kept"], dataset.counts["clips"]
        add_to_name(f"reselect {parameters.rule}", f"{kept:,} of {clips:,} kept")
    show_page(wh, dataset)
    return dataset


@named_flow("features of {parameters.subject}")
def features(parameters: FeaturesParameters) -> list[StageCounts]:
    """Compute the features of a dataset version that training reads and that are not there yet."""
    wh = Warehouse(parameters.home)
    graph = StageGraph(parameters.load_preset())
    with recorded(wh, "features", parameters) as record:
        dataset = choose_dataset(wh, parameters.dataset)
        record["dataset"] = dataset.version
        counts = run_part(wh, graph, parameters, Part("", dataset=dataset))
        record["stages"] = [asdict(count) for count in counts]
    return counts


@named_flow("{parameters.subject}")
def stages(parameters: StagesParameters) -> list[StageCounts]:
    """Run stages of a curation in this pool, for the run of `curate` or `score` that asks for it.

    Raises FoleyError for one that is not there.
    """
    wh = Warehouse(parameters.home)
    policy = parameters.policy or (corpus_settings(wh) or CorpusSettings()).policy
    graph = StageGraph(parameters.load_preset(), load_policy(policy).stages)
    with recorded(wh, "stages", parameters, alone="stages") as record:
        dataset = choose_dataset(wh, parameters.dataset) if parameters.dataset else None
        part = Part(policy, parameters.sources, dataset, parameters.stages)
        counts = run_part(wh, graph, parameters, part)
        record["stages"] = [asdict(count) for count in counts]
    return counts
