"""The main job end to end: render clips, curate, train, evaluate, and report."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.curate import Curated, curate
from flows.display.artifacts import show_report
from flows.display.progress_bars import bar
from flows.evaluate import HeldOut, evaluate
from flows.parameters import CurateParameters, DemoParameters, EvaluateParameters, TrainParameters
from flows.train import train
from pipeline.curation.dataset_clips import dataset_clips
from pipeline.curation.known_flaws import flaw_figures
from pipeline.evaluation.demo_page import report_data
from pipeline.evaluation.results import funnel, machine, versions
from pipeline.generation.provenance import code_revision
from pipeline.report import write_report
from pipeline.training.checkpoints import Checkpoint
from warehouse import Warehouse
from warehouse.files import identity_hash, read_json, write_json

REPORT_VERSION = 4  # raised when the report or results.json says the same results differently


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


@dataclass(frozen=True)
class Demo:
    """What the demo did and found.

    `worked` is False where no stage and no training had anything to do.
    """

    results: dict[str, Any]
    report: Path
    curated: Curated
    checkpoint: Checkpoint
    worked: bool


@flow(name="demo", flow_run_name="demo {parameters.clips} clips seed {parameters.seed}")
def demo(parameters: DemoParameters, corpus: Path, before: dict[str, float]) -> Demo:
    """Curate, train, evaluate and report on the rendered clips in `corpus`; `before` are the seconds spent so far.

    What an earlier run of the same code and parameters has done is not done again.
    """
    wh = Warehouse(parameters.home)
    clock = Clock(before)
    shared: dict[str, Any] = {
        "home": wh.home,
        "preset": parameters.preset,
        "weights": parameters.weights,
    }
    split: dict[str, Any] = {
        name: getattr(parameters, name) for name in ("workers", "batch_size", "max_attempts")
    }
    with clock.step("curate"):
        source = f"procedural.{parameters.seed}"
        chosen = CurateParameters(
            **shared, **split, folder=corpus, source=source, policy="toy", dataset=source
        )
        curated = curate(chosen)
    with clock.step("train"):
        dataset, seed = curated.dataset, parameters.seed
        checkpoint = train(
            TrainParameters(**shared, dataset=dataset.version, steps=parameters.steps, seed=seed)
        )
    with clock.step("evaluate"):
        split["batch_size"] = max(
            1, split["batch_size"] // 4
        )  # sound is made for a tenth of the clips
        evaluated = evaluate(
            EvaluateParameters(**shared, **split, checkpoint=checkpoint.id, seed=seed)
        ).held_out
        assert evaluated is not None
    results = report(wh, parameters, clock, curated, checkpoint, evaluated)
    counts = curated.stages + evaluated.stages
    worked = checkpoint.trained or any(count.batches for count in counts)
    return Demo(results, wh.folder("reports") / "report.html", curated, checkpoint, worked)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report(
    wh: Warehouse,
    parameters: DemoParameters,
    clock: Clock,
    curated: Curated,
    checkpoint: Checkpoint,
    evaluated: HeldOut,
) -> dict[str, Any]:
    """Write results.json and report.html, unless those of the same results and the same code are there."""
    folder = wh.folder("reports")
    revision = code_revision()
    identity = [
        REPORT_VERSION,
        revision,
        checkpoint.id,
        curated.dataset.version,
        dict(evaluated.data.fingerprints),
    ]
    key = identity_hash(identity)
    known = read_json(folder / "results.json") if (folder / "results.json").is_file() else {}
    if known.get("id") == key and (folder / "report.html").is_file():
        return known
    results = (
        {"id": key}
        | _results(wh, parameters, curated, checkpoint, evaluated)
        | {"commit": revision}
    )
    with (
        clock.step("report"),
        bar("report", 1) as progress,
    ):  # its seconds are in it, so writing it is not in them
        data = report_data(evaluated.data, results, checkpoint)
        progress.update()
    total = (
        perf_counter() - clock.started + sum(clock.seconds[name] for name in ("start", "render"))
    )
    results["seconds"] = {
        name: round(value, 2) for name, value in (clock.seconds | {"total": total}).items()
    }
    write_report(folder / "report.html", data)
    write_json(wh.tmp, folder / "results.json", results)
    show_report("report.html")
    return results


def _results(
    wh: Warehouse,
    parameters: DemoParameters,
    curated: Curated,
    checkpoint: Checkpoint,
    evaluated: HeldOut,
) -> dict[str, Any]:
    """The figures, and under what they came about."""
    everyone = curated.dataset.members(kept=None)["clip_id"].to_pylist()
    with dataset_clips(wh.home, curated.dataset.version) as clips:
        flaws = flaw_figures(clips)
    return {
        **{
            name: evaluated.figures[name]
            for name in ("sync", "v_loss", "prompt_swap", "material_accuracy")
        },
        "held_out_clips": evaluated.figures["clips"],
        "funnel": funnel(wh, curated.dataset.fingerprints, everyone),
        "curation": flaws,
        "dataset": curated.dataset.version,
        "checkpoint": checkpoint.id,
        "preset": parameters.preset,
        "steps": checkpoint.record["steps"],
        "seed": parameters.seed,
        "versions": versions(),
        "machine": machine(),
    }
