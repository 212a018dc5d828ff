"""Small pictures for Prefect's UI, as SVG: a funnel, histograms, and the curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.report.charts import histogram, thinned
from pipeline.report.curves import curves_svg

_WIDTH = 760
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"
  viewBox="0 0 {width} {height}">
<style>
text {{ font: 13px system-ui, sans-serif; fill: #334155 }}
.t {{ font-weight: 600; font-size: 15px }} .m {{ text-anchor: middle }}
.n {{ fill: #64748b }} .k {{ fill: #2563eb }} .d {{ fill: #e2e8f0 }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
"""


def _svg(height: int, parts: Sequence[str]) -> str:
    return _HEAD.format(width=_WIDTH, height=height) + "\n".join(parts) + "</svg>"


def funnel_svg(title: str, steps: Sequence[Mapping[str, Any]]) -> str:
    """A bar a step: clips left after it, and how many it dropped.

    Steps are those of `Dataset.funnel`.
    """
    most = max([1, *(step["left"] for step in steps)])
    parts = [f'<text class="t" x="16" y="26">{escape(title)}</text>']
    for row, step in enumerate(steps):
        y = 44 + 28 * row
        width = 400 * step["left"] / most
        dropped = f" (-{step['dropped']:,})" if step["dropped"] else ""
        parts += [
            f'<text x="150" y="{y + 15}" text-anchor="end">{escape(str(step["step"]))}</text>',
            f'<rect class="d" x="160" y="{y}" width="400" height="20" rx="3"/>',
            f'<rect class="k" x="160" y="{y}" width="{width:.1f}" height="20" rx="3"/>',
            f'<text class="n" x="570" y="{y + 15}">{step["left"]:,}{dropped}</text>',
        ]
    return _svg(60 + 28 * len(steps), parts)


def histograms_svg(scores: Mapping[str, Sequence[float]]) -> str:
    """A histogram a score, two a row."""
    parts: list[str] = []
    for number, (name, values) in enumerate(scores.items()):
        chart = histogram(name, values, height=90)
        title = f'<text class="t">{escape(name)} ({chart.count:,} clips)</text>'
        bars = [
            f'<rect class="k" x="{3.4 * bar.x:.1f}" y="{12 + bar.y:.1f}" '
            f'width="{max(1.0, 3.4 * bar.width - 1):.1f}" height="{bar.height}"/>'
            for bar in chart.bars
        ]
        ticks = [
            f'<text class="n m" x="{3.4 * tick.at:.1f}" y="120">{tick.label}</text>'
            for tick in chart.x_ticks
        ]
        place = f"translate({16 + 376 * (number % 2)} {30 + 160 * (number // 2)})"
        parts += [f'<g transform="{place}">', title, *bars, *ticks, "</g>"]
    return _svg(30 + 160 * ((len(scores) + 1) // 2), parts)


def training_svg(losses: Sequence[Sequence[float]], validation: Sequence[Sequence[float]]) -> str:
    """Loss [step, loss] and validation [step, true, null, another's video] over the steps."""
    series = [("training", thinned([(step, loss) for step, loss in losses]))]
    for column, name in enumerate(("own video", "no video", "another's video"), start=1):
        series.append((name, thinned([(row[0], row[column]) for row in validation])))
    caption = "training steps; v-loss of training, and of held-out clips by what they see"
    return curves_svg(caption, series)
