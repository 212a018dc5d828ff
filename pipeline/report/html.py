"""ReportData into one HTML file."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import view
from pipeline.report.data import ReportData
from pipeline.report.figures import figure, get, is_number
from pipeline.report.players import player
from warehouse.files import make_folder, write_file


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to `path`: in full or not at all, replacing an older one.

    Raises FoleyError when the disk is full, read-only or forbidden.
    """
    content = render_report(data).encode()
    folder = make_folder(path.absolute().parent)
    write_file(folder, lambda handle: handle.write(content), folder / path.name)


def render_report(data: ReportData, made_at: datetime | None = None) -> str:
    """The report as HTML text; `made_at` is the time it names, now by default."""
    results = data.results
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            results=results,
            get=get,
            verdict=view.verdict(results),
            goal=(view.TRUE_AT_LEAST, view.CONTROL_AT_MOST),
            funnel=view.funnel_rows(results),
            steps=view.steps(results),
            groups=view.score_groups(data.scores),
            loss=view.loss_chart(data),
            validation=view.validation_chart(data),
            provenance=view.provenance(results),
            players=[player(clip) for clip in data.clips],
            made_at=(made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
            style=asset("report.css"),
            script=asset("player.js"),
        )
    )


@cache
def environment() -> Environment:
    """The templates of this package, with its filters."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["number"] = view.number
    environment.tests["measured"] = is_number
    return environment


def asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    return Markup(files("pipeline.report").joinpath("templates", name).read_text("utf-8"))  # noqa: S704 (our own file)
