"""Charts as SVG files of their own: the ablation's figure, and what Prefect's UI shows of a run."""

from collections.abc import Mapping, Sequence

from pipeline.report.charts import histogram, lines, thinned
from pipeline.report.html import template_of

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
Series = tuple[str, Sequence[tuple[float, float]]]  # name and points (x, y)


def curves_svg(caption: str, series: Sequence[Series]) -> str:
    """Curves over a common x, with a legend; values that are not finite are left out."""
    named = [(name, str(i % len(COLOURS)), points) for i, (name, points) in enumerate(series)]
    chart = lines(caption, named, height=240)
    return template_of("curves.svg.j2").render(chart=chart, colours=COLOURS)


def training_svg(losses: Sequence[Sequence[float]], validation: Sequence[Sequence[float]]) -> str:
    """Loss [step, loss] and validation [step, true, null, another's video] over the steps."""
    series = [("training", thinned([(step, loss) for step, loss in losses]))]
    for column, name in enumerate(("own video", "no video", "another's video"), start=1):
        series.append((name, thinned([(row[0], row[column]) for row in validation])))
    caption = "training steps; v-loss of training, and of held-out clips by what they see"
    return curves_svg(caption, series)


def funnel_svg(title: str, steps: Sequence[Mapping[str, object]]) -> str:
    """A bar a step of `Dataset.funnel`: clips left after it, and how many it dropped."""
    return template_of("funnel.svg.j2").render(title=title, steps=steps)


def histograms_svg(scores: Mapping[str, Sequence[float]]) -> str:
    """A histogram a score, two a row."""
    charts = [histogram(name, values, height=90) for name, values in scores.items()]
    return template_of("histograms.svg.j2").render(charts=charts)
