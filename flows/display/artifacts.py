"""What a run shows in Prefect's UI beside its logs.

Progress, pictures, tables, links, and the SQL to look further.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import prefect.artifacts
from prefect import get_run_logger
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings

from flows.display.thumbnails import funnel_svg, histograms_svg, training_svg
from pipeline.evaluation.results import funnel, reason
from warehouse import Dataset, Warehouse

if TYPE_CHECKING:
    from model.training.trainer import Progress

_EVERY = 2.0  # seconds between two updates of a progress bar
CURVES_EVERY = 60.0  # seconds between two pictures of a training that runs
_MOST_ROWS = 200
R = TypeVar("R")
#: Requests are made beside the main thread, where Ctrl-C or a cancellation may come in the middle
#: of one: Prefect then makes another error of it.
_requests = ThreadPoolExecutor(4, thread_name_prefix="artifacts")
artifacts: Any = prefect.artifacts  # sync or async by its caller, which type checkers do not see


def _shown(what: Callable[..., R], **values: Any) -> R | None:
    """Make an artifact; a server that does not take it costs a line in the log, never the run."""
    try:
        return _requests.submit(copy_context().run, what, **values).result()
    except Exception as error:  # noqa: BLE001 (whatever the server or the network has)
        get_run_logger().warning(
            "not shown in the UI: %s: %s", values.get("key", what.__name__), error
        )
        return None


def _key(*parts: str) -> str:
    """A key that Prefect takes: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class ProgressArtifact:
    """A progress bar in the UI for one step of a run."""

    def __init__(self, name: str, total: int, unit: str = "clips") -> None:
        self.total = max(1, total)
        self.updated = monotonic()
        text = f"{name}: {total} {unit}"
        self.id = _shown(
            artifacts.create_progress_artifact,
            progress=0.0,
            key=_key("progress", name),
            description=text,
        )

    def show(self, done: int) -> None:
        """Move the bar there; seldom, and always to its end.

        Ends the run here where a person paused it.
        """
        if run := FlowRunContext.get():
            run.flow_run_suspension_request.raise_if_requested()
        now = monotonic()
        if self.id is None or (done < self.total and now - self.updated < _EVERY):
            return
        self.updated = now
        _shown(
            artifacts.update_progress_artifact,
            artifact_id=self.id,
            progress=min(100.0, 100 * done / self.total),
        )


class TrainingCurves:
    """The curves of a training in the UI.

    What TensorBoard has, as one picture that grows while it runs.
    """

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float, float, float]] = []
        self.shown = -math.inf

    def add(self, state: Progress) -> None:
        """Note a step.

        A new picture where something was validated, at most one every CURVES_EVERY seconds.
        """
        self.losses.append((state.step, state.loss))
        if (v := state.validation) is None:
            return
        self.validation.append((state.step, v.true, v.null, v.other))
        if monotonic() - self.shown >= CURVES_EVERY:
            self.shown = monotonic()
            show_training(self.losses, self.validation)


def show_training(losses: Sequence[Sequence[float]], validation: Sequence[Sequence[float]]) -> None:
    """Loss [step, loss] and validation [step, true, null, another's video] of a training, as a picture."""
    _picture(
        "training",
        training_svg(losses, validation),
        f"after {losses[-1][0]:.0f} steps" if losses else "no step",
    )


def show_curation(wh: Warehouse, dataset: Dataset) -> None:
    """Funnel and scores as pictures, failures as a table, and the SQL to look further."""
    everyone = dataset.members(kept=None)["clip_id"].to_pylist()
    steps = funnel(wh, dataset.fingerprints, everyone)
    title = f"{dataset.version}: {dataset.counts['kept']} of {dataset.counts['clips']} clips kept"
    _picture("funnel", funnel_svg(title, dataset.funnel), title)
    _picture(
        "scores",
        histograms_svg(_scores(wh, dataset, everyone)),
        f"{dataset.version}: scores of all clips",
    )
    reasons = [
        {"stage": step["stage"], "reason": why, "clips": number}
        for step in steps
        for why, number in step["reasons"].items()
    ]
    _shown(
        artifacts.create_table_artifact,
        table=reasons,
        key="dropped",
        description="why clips were dropped",
    )
    failures = _failures(wh, dataset, everyone)
    more = "" if len(failures) < _MOST_ROWS else f" (the first {_MOST_ROWS})"
    _shown(
        artifacts.create_table_artifact,
        table=failures,
        key="failures",
        description=f"clips that failed a stage{more}",
    )
    _shown(
        artifacts.create_markdown_artifact, markdown=_look_further(wh, dataset), key="look-further"
    )


def _picture(key: str, svg: str, text: str) -> None:
    """An image in the page itself: no file server is needed, and nothing expires."""
    url = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    _shown(artifacts.create_image_artifact, image_url=url, key=key, description=text)


def _scores(wh: Warehouse, dataset: Dataset, clip_ids: Sequence[str]) -> dict[str, list[float]]:
    """Every number that a stage found, by its name."""
    found: dict[str, list[float]] = {}
    for stage, fingerprint in dataset.fingerprints.items():
        columns = wh.descriptor(stage, fingerprint).columns
        names = [c.name for c in columns if str(c.type) in ("float", "double")]
        if not names:
            continue
        rows = wh.rows(stage, fingerprint, None, names, clip_ids)
        for name in names:
            values = [float(value) for value in rows[name].to_pylist() if value is not None]
            if len(set(values)) > 1:
                found[name] = values
    return found


def _failures(wh: Warehouse, dataset: Dataset, clip_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Failed clips of the stages of a dataset with their reasons, first what a narrow table shows."""
    found: list[dict[str, Any]] = []
    for stage, fingerprint in {"clips": "source", **dataset.fingerprints}.items():
        columns = ["clip_id", "reason", "error", "message", "attempt"]
        rows = (
            wh.rows(stage, fingerprint, "failed", columns, clip_ids)
            .slice(0, _MOST_ROWS - len(found))
            .to_pylist()
        )
        for row in rows:
            what = {"reason": reason(row), "error": row["error"], "attempt": row["attempt"]}
            found.append({"stage": stage, "clip_id": row["clip_id"]} | what)
    return found


def _look_further(wh: Warehouse, dataset: Dataset) -> str:
    """Commands that go on where the pictures end."""
    chosen = f"version = '{dataset.version}'"
    queries = {
        "Every stage": "select * from funnel",
        "Why clips were dropped": f"from dataset_members select reason, count() where not kept and {chosen} group by 1",
        "What failed": "select stage, error, count(*), any_value(message) as example from failures group by all",
        "What changed since the version before": f"from dataset_diff where {chosen}",
    }
    parts = [
        f'### {text}\n```\nfoley sql --home {wh.home} "{sql}"\n```' for text, sql in queries.items()
    ]
    return "\n".join(["## Look further", *parts])


def show_figures(name: str, figures: Mapping[str, Any], report: str | None = None) -> None:
    """The figures of an evaluation as text, with a link to a report under HOME/reports."""
    from pipeline.evaluation.results import figures as text

    _shown(
        artifacts.create_markdown_artifact,
        markdown=f"## {name}\n```\n{text(figures)}\n```",
        key="figures",
    )
    if report:
        show_report(report)


def show_report(name: str, key: str = "report") -> None:
    """A link to HOME/reports/NAME, which the server of `foley up` has beside its pages."""
    base = (get_current_settings().api.url or "").removesuffix("/api")
    _shown(artifacts.create_link_artifact, link=f"{base}/reports/{name}", link_text=name, key=key)


def show_rows(key: str, rows: Sequence[Mapping[str, Any]], text: str) -> None:
    """A table, cut where it is longer than a page can show."""
    _shown(
        artifacts.create_table_artifact,
        table=[dict(row) for row in rows[:_MOST_ROWS]],
        key=key,
        description=text,
    )


def note_asset(
    kind: str, id: str, came_from: Sequence[tuple[str, str]], facts: Mapping[str, Any]
) -> None:
    """Tell Prefect that a dataset or checkpoint was made, and from what: its lineage as assets."""
    asset = Asset(key=asset_key(kind, id), properties=AssetProperties(name=f"{kind} {id}"))
    parents: list[Asset | str] = [asset_key(*parent) for parent in came_from]

    def made() -> str:
        asset.add_metadata(dict(facts))
        return id

    task: Any = materialize(
        asset, name=f"{kind} made", asset_deps=parents, cache_policy=NO_CACHE, persist_result=False
    )(made)
    task()


def asset_key(kind: str, id: str) -> str:
    """Name of a thing of the warehouse among Prefect's assets."""
    return f"foley://{kind}/{re.sub(r'[^A-Za-z0-9._-]+', '-', id)}"
