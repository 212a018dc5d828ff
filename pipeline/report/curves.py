"""A line chart as one SVG file: the ablation's figure, and curves in Prefect's UI."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.charts import lines
from pipeline.report.html import template_of

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
Series = tuple[str, Sequence[tuple[float, float]]]  # name and points (x, y)


def curves_svg(caption: str, series: Sequence[Series]) -> str:
    """Curves over a common x, with a legend; values that are not finite are left out."""
    named = [(name, str(i % len(COLOURS)), points) for i, (name, points) in enumerate(series)]
    chart = lines(caption, named, height=240)
    return template_of("curves.svg.j2").render(chart=chart, colours=COLOURS)
