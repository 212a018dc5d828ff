"""The main job end to end: render clips, curate, train, evaluate, and report."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from prefect import flow, task

from flows.curate import Curated, curate
from flows.display.artifacts import show_report
from flows.display.progress_bars import step
from flows.evaluate import HeldOut, evaluate
from flows.parameters import (
    BatchParameters,
    CurateParameters,
    DemoParameters,
    EvaluateParameters,
    ModelParameters,
    TrainParameters,
)
from flows.running.names import named
from flows.train import train
from pipeline.curation.dataset_clips import dataset_clips
from pipeline.curation.known_flaws import flaw_figures
from pipeline.evaluation.demo_page import report_data
from pipeline.evaluation.results import funnel, machine, versions
from pipeline.generation.provenance import code_revision
from pipeline.report import render_report, write_page
from pipeline.training.checkpoints import Checkpoint
from warehouse.files import Json, identity_hash, read_json, write_json

REPORT_VERSION = 6  # raised when the report or results.json says the same results differently


class Clock:
    """Seconds by step, on top of those that came before."""

    def __init__(self, before: dict[str, float]) -> None:
        self.started = perf_counter()
        self.seconds = dict(before)

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Time the enclosed step."""
        started = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started

    def total(self) -> float:
        """Seconds since the command began."""
        return perf_counter() - self.started + self.seconds["start"] + self.seconds["render"]


@dataclass(frozen=True)
class Demo:
    """What the demo did; `worked` is False where no stage and no training had anything to do."""

    results: Json
    report: Path
    curated: Curated
    checkpoint: Checkpoint
    worked: bool


@flow(name="demo", flow_run_name=named("demo {parameters.clips} clips"))
def demo(parameters: DemoParameters, corpus: Path, before: dict[str, float]) -> Demo:
    """Curate, train, evaluate and report on the clips in `corpus`; `before`: seconds spent so far.

    What an earlier run of the same code and parameters has done is not done again.
    """
    clock, seed = Clock(before), parameters.seed
    shared = parameters.model_dump(include={*ModelParameters.model_fields})
    split = parameters.model_dump(include={*BatchParameters.model_fields} - shared.keys())
    with clock.step("curate"):
        name, policy = parameters.corpus, parameters.policy
        source: Json = {"folder": corpus, "name": name, "sources": (name,)}
        curated = curate(CurateParameters(**shared, **split, **source, dataset=name, policy=policy))
    with clock.step("train"):
        version = curated.dataset.version
        checkpoint = train(
            TrainParameters(**shared, dataset=version, seed=seed, **parameters.training)
        )
        assert isinstance(checkpoint, Checkpoint)
    with clock.step("evaluate"):
        split["batch_size"] = max(1, split["batch_size"] // 4)  # a tenth of the clips is held out
        evaluated = evaluate(
            EvaluateParameters(**shared, **split, checkpoint=checkpoint.id, seed=seed)
        ).held_out
        assert evaluated is not None
    results = report(parameters, clock, curated, evaluated)
    counts = curated.stages + evaluated.stages
    worked = checkpoint.trained or any(count.batches for count in counts)
    page = evaluated.data.wh.folder("reports") / "report.html"
    return Demo(results, page, curated, checkpoint, worked)


@task(name="report", persist_result=False)
def report(parameters: DemoParameters, clock: Clock, curated: Curated, evaluated: HeldOut) -> Json:
    """Write results.json and report.html, unless those of the same results and code are there."""
    wh, checkpoint, revision = evaluated.data.wh, evaluated.checkpoint, code_revision()
    fingerprints = dict(evaluated.data.fingerprints)
    id = identity_hash(
        [REPORT_VERSION, revision, checkpoint.id, curated.dataset.version, fingerprints]
    )
    page, file = (wh.folder("reports") / name for name in ("report.html", "results.json"))
    before = read_json(file) if file.is_file() else {}
    if before.get("id") == id and page.is_file():
        return before
    results = {"id": id} | _results(parameters, curated, evaluated) | {"commit": revision}
    # the report shows how long it took to gather, so the time to write it is not in that
    with clock.step("report"), step("report"):
        data = report_data(evaluated.data, results, checkpoint)
    seconds = clock.seconds | {"total": clock.total()}
    results["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    write_page(page, render_report(data))
    write_json(wh.tmp, file, results)
    show_report("report.html")
    return results


def _results(parameters: DemoParameters, curated: Curated, evaluated: HeldOut) -> dict[str, object]:
    """The figures, and under what they came about."""
    wh, dataset, figures = evaluated.data.wh, curated.dataset, evaluated.figures
    everyone = dataset.members(kept=None)["clip_id"].to_pylist()
    with dataset_clips(wh.home, dataset.version) as clips:
        flaws = flaw_figures(clips)
    shown = ("sync", "v_loss", "prompt_swap", "material_accuracy")
    worlds = {"level": parameters.level, "worlds": figures["worlds"]} if parameters.level else {}
    return {
        **{name: figures[name] for name in shown},
        "held_out_clips": figures["clips"],
        "funnel": funnel(wh, dataset.fingerprints, everyone),
        "curation": flaws,
        "dataset": dataset.version,
        "checkpoint": evaluated.checkpoint.id,
        "preset": parameters.preset,
        **worlds,
        "steps": evaluated.checkpoint.record["steps"],
        "seed": parameters.seed,
        "versions": versions(),
        "machine": machine(),
    }
