"""What a run shows in Prefect's UI beside its logs: progress, pictures, tables and links."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

import prefect.artifacts
from prefect import get_run_logger
from prefect.assets import Asset, AssetProperties, materialize
from prefect.context import FlowRunContext

from pipeline.evaluation.results import funnel, reason
from pipeline.report.pictures import funnel_svg, histograms_svg, training_svg
from warehouse import Dataset, Warehouse
from warehouse.files import Json

if TYPE_CHECKING:
    from model.training.trainer import Progress

_EVERY = 2.0  # seconds between two updates of a progress bar
CURVES_EVERY = 60.0  # seconds between two pictures of a training that runs
MOST_ROWS = 200
#: Requests are made beside the main thread, where Ctrl-C or a cancellation may come in the middle
#: of one: Prefect then makes another error of it.
_requests = ThreadPoolExecutor(4, thread_name_prefix="artifacts")
artifacts: Any = prefect.artifacts  # sync or async by its caller, which type checkers do not see


def _show(kind: str, **values: object) -> None:
    """Make an artifact."""
    call = getattr(artifacts, f"{kind}_artifact")
    _ask(partial(call, **values), str(values.get("key", kind)))


def _ask(call: Callable[[], object], what: str) -> None:
    """Ask the server; one that does not take it costs a line in the log, never the run."""
    try:
        _requests.submit(copy_context().run, call).result()
    except Exception as error:  # noqa: BLE001 (whatever the server or the network has)
        get_run_logger().warning("not shown in the UI: %s: %s", what, error)


@cache
def _bar_of(run: UUID | None) -> UUID:
    """The progress bar of a run, made for its first step; there is one a run, for all its steps.

    A server that was busy (its error is not kept here) is asked again at the next movement.
    """
    del run  # whose context this is called in
    return artifacts.create_progress_artifact(progress=0.0, key="progress")


class ProgressArtifact:
    """The progress bar of a run in the UI, for one step after another."""

    def __init__(self, name: str, total: int, unit: str = "clips") -> None:
        self.total = max(1, total)
        self.updated = monotonic()
        self.text = f"{name}: {total} {unit}"
        run = FlowRunContext.get()
        self.run = run.flow_run.id if run and run.flow_run else None
        self._set(0.0)

    def show(self, done: int) -> None:
        """Move the bar there, seldom, and always to its end; ends a run that a person paused."""
        if run := FlowRunContext.get():
            run.flow_run_suspension_request.raise_if_requested()
        now = monotonic()
        if done < self.total and now - self.updated < _EVERY:
            return
        self.updated = now
        self._set(min(100.0, 100 * done / self.total))

    def say(self, text: str) -> None:
        """Have another text beside the bar, which starts again."""
        self.text = text
        self._set(0.0)

    def _set(self, share: float) -> None:
        _ask(partial(self._move, share), "progress")

    def _move(self, share: float) -> None:
        values = {"progress": share, "description": self.text}
        artifacts.update_progress_artifact(artifact_id=_bar_of(self.run), **values)


class TrainingCurves:
    """The curves of a training in the UI: one picture that grows while it runs."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float, float, float]] = []
        self.shown = -math.inf

    def add(self, state: Progress) -> None:
        """Note a step; a new picture after a validation, at most one every CURVES_EVERY seconds."""
        self.losses.append((state.step, state.loss))
        if (v := state.validation) is None:
            return
        self.validation.append((state.step, v.true, v.null, v.other))
        if monotonic() - self.shown >= CURVES_EVERY:
            self.shown = monotonic()
            show_training(self.losses, self.validation)


def show_training(losses: Sequence[Sequence[float]], validation: Sequence[Sequence[float]]) -> None:
    """A training as a picture: [step, loss] and [step, true, null, another video's loss]."""
    steps = f"after {losses[-1][0]:.0f} steps" if losses else "no step"
    _picture("training", training_svg(losses, validation), steps)


def show_curation(wh: Warehouse, dataset: Dataset) -> None:
    """Funnel and scores as pictures, failures as a table, and the SQL to look further.

    The UI has the newest of a run on top: what a person wants first is made last.
    """
    everyone = dataset.members(kept=None)["clip_id"].to_pylist()
    title = f"{dataset.version}: {dataset.counts['kept']} of {dataset.counts['clips']} clips kept"
    _show("create_markdown", markdown=_look_further(wh, dataset), key="look-further")
    reasons = [
        {"stage": step["stage"], "reason": why, "clips": number}
        for step in funnel(wh, dataset.fingerprints, everyone)
        for why, number in step["reasons"].items()
    ]
    show_rows("dropped", reasons, "why clips were dropped")
    show_rows("failures", _failures(wh, dataset, everyone), "clips that failed a stage")
    scores = histograms_svg(_scores(wh, dataset, everyone))
    _picture("scores", scores, f"{dataset.version}: scores of all clips")
    _picture("funnel", funnel_svg(title, dataset.funnel), title)


def _picture(key: str, svg: str, text: str) -> None:
    """An image in the page itself: no file server is needed, and nothing expires."""
    url = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    _show("create_image", image_url=url, key=key, description=text)


def _scores(wh: Warehouse, dataset: Dataset, clip_ids: Sequence[str]) -> dict[str, list[float]]:
    """Values of every number that differs between clips, by its name."""
    scores: dict[str, list[float]] = {}
    for stage, fingerprint in dataset.fingerprints.items():
        columns = wh.descriptor(stage, fingerprint).columns
        names = [c.name for c in columns if str(c.type) in ("float", "double")]
        if names:
            rows = wh.rows(stage, fingerprint, None, names, clip_ids)
            scores |= {name: rows[name].drop_null().to_pylist() for name in names}
    return {name: values for name, values in scores.items() if len(set(values)) > 1}


def _failures(wh: Warehouse, dataset: Dataset, clip_ids: Sequence[str]) -> list[dict[str, object]]:
    """Failed clips with their reasons, first what a narrow table shows."""
    columns = ["clip_id", "reason", "error", "message", "attempt"]
    return [
        {
            "stage": stage,
            "clip_id": row["clip_id"],
            "reason": reason(row),
            "error": row["error"],
            "attempt": row["attempt"],
        }
        for stage, fingerprint in {"clips": "source", **dataset.fingerprints}.items()
        for row in wh.rows(stage, fingerprint, "failed", columns, clip_ids)
        .slice(0, MOST_ROWS + 1)
        .to_pylist()
    ]


def _look_further(wh: Warehouse, dataset: Dataset) -> str:
    """Commands that go on where the pictures end."""
    chosen = f"version = '{dataset.version}'"
    queries = {
        "Every stage": "select * from funnel",
        "Why clips were dropped": "from dataset_members select reason, count() "
        f"where not kept and {chosen} group by 1",
        "What failed": "select stage, error, count(*), any_value(message) as example "
        "from failures group by all",
        "What changed since the version before": f"from dataset_diff where {chosen}",
    }
    parts = [
        f'### {text}\n```\nfoley sql --home {wh.home} "{sql}"\n```' for text, sql in queries.items()
    ]
    return "\n".join(["## Look further", "[The catalog](/catalog), or by SQL:", *parts])


def show_figures(name: str, figures: Json) -> None:
    """The figures of an evaluation as text."""
    from pipeline.evaluation.results import figures as text

    _show("create_markdown", markdown=f"## {name}\n```\n{text(figures)}\n```", key="figures")


def show_report(name: str, key: str = "report") -> None:
    """A link to HOME/reports/NAME, which the server of `foley up` has beside its pages.

    Without a host: it is the one that the person who follows it knows the server by.
    """
    _show("create_link", link=f"/reports/{name}", link_text=name, key=key)


def show_rows(key: str, rows: Sequence[Mapping[str, object]], text: str) -> None:
    """A table, cut where it is longer than a page can show."""
    more = f" (the first {MOST_ROWS})" if len(rows) > MOST_ROWS else ""
    table = [dict(row) for row in rows[:MOST_ROWS]]
    _show("create_table", table=table, key=key, description=text + more)


def note_asset(
    kind: str, id: str, came_from: Sequence[tuple[str, str]], facts: Mapping[str, object]
) -> None:
    """Tell Prefect that a dataset or checkpoint was made, and from what: its lineage as assets."""
    asset = Asset(key=asset_key(kind, id), properties=AssetProperties(name=f"{kind} {id}"))
    parents: list[Asset | str] = [asset_key(*parent) for parent in came_from]

    def note() -> str:
        asset.add_metadata(dict(facts))
        return id

    options: Any = {"persist_result": False, "asset_deps": parents}
    task: Any = materialize(asset, name=f"{kind} made", **options)(note)
    task()


def asset_key(kind: str, id: str) -> str:
    """Name of a thing of the warehouse among Prefect's assets."""
    return f"foley://{kind}/{re.sub(r'[^A-Za-z0-9._-]+', '-', id)}"
