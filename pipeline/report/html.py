"""Templates into pages: one HTML file each, with its styles and scripts inside."""

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline.report.figures import figure, is_number, number
from warehouse.files import make_folder, write_file


def page_html(template: str, scripts: tuple[str, ...] = (), **values: object) -> str:
    """A page of the template with these values and scripts."""
    return template_of(template).render(
        values,
        style=asset("report.css"),
        script=Markup().join(asset(name) for name in scripts),
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_page(path: Path, html: str) -> Path:
    """Write a page in full or not at all, replacing an older one; returns its path.

    Raises FoleyError when the disk is full, read-only or forbidden.
    """
    folder = make_folder(path.absolute().parent)
    return write_file(folder, lambda handle: handle.write(html.encode()), folder / path.name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "number": number}
    environment.tests["measured"] = is_number
    return environment


def template_of(name: str) -> Template:
    """A template of this package."""
    return _environment().get_template(name)


def asset(name: str) -> Markup:
    """A file of this package that goes into the page as it is."""
    text = files("pipeline.report").joinpath("templates", name).read_text("utf-8")
    return Markup(text)  # noqa: S704 (our own file)
