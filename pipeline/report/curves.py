"""A line chart as one SVG file, for pages beside the report.

The ablation's figure, and curves in Prefect's UI.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.report.charts import CURVE_WIDTH, Lines, lines

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
_LEFT, _TOP, _WIDTH, _HEIGHT = 60, 20, 600, 240  # of the plot, in pixels
_DOTTED = 20  # curves of no more points than this show where they are
Series = tuple[str, Sequence[tuple[float, float]]]  # name and points (x, y)


def curves_svg(caption: str, series: Sequence[Series]) -> str:
    """Curves over a common x, with a legend; values that are not finite are left out."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(series))]
    chart = lines(
        caption, [(n, c, xy) for c, (n, xy) in zip(colours, series, strict=True)], _HEIGHT
    )
    parts = [*_axes(chart), *_curves(chart)]
    parts.append(
        f'<text x="{_LEFT + _WIDTH / 2}" y="298" text-anchor="middle">{escape(caption)}</text>'
    )
    style = "<style>text{font:13px system-ui,sans-serif}</style>"
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="680" height="324" viewBox="0 0 680 324">'
    return f'{head}{style}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'


def _axes(chart: Lines) -> list[str]:
    right = _LEFT + _WIDTH
    rows = [(_TOP + tick.at, tick.label) for tick in chart.y_ticks]
    return [
        f'<line x1="{_LEFT}" x2="{right}" y1="{y:g}" y2="{y:g}" stroke="#e2e8f0"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>'
        for y, label in rows
    ] + [
        f'<text x="{_LEFT + _WIDTH / 100 * t.at:g}" y="282" text-anchor="middle">{t.label}</text>'
        for t in chart.x_ticks
    ]


def _curves(chart: Lines) -> list[str]:
    parts: list[str] = []
    for number, curve in enumerate(chart.curves):
        points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
        placed = [(_LEFT + x * _WIDTH / CURVE_WIDTH, _TOP + y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{curve.style}" stroke-width="2"/>'
        )
        if len(placed) <= _DOTTED:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{curve.style}"/>'
                for x, y in placed
            ]
        legend = f'<text x="{80 + 140 * number}" y="314" fill="{curve.style}">{escape(curve.name)}</text>'
        parts.append(legend)
    return parts
