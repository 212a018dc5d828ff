"""Table 2 as Markdown: what was measured here, and under it the paper's rows, marked as such."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pipeline.evaluation.metrics import METRICS, Metric
from pipeline.evaluation.scoring import Figures
from pipeline.report.figures import metric_text
from warehouse.files import Json

Counts = Mapping[str, Json]  # system -> what `scoring.counts` gives
_WRONG = ("missing", "broken", "silent", "short", "clipped", "unknown_files")


@cache
def published() -> Json:
    """The paper's Table 2 with its source and notes."""
    return tomllib.loads((Path(__file__).parent / "published.toml").read_text("utf-8"))


def columns(systems: Mapping[str, Figures]) -> list[Metric]:
    """Metrics to show: all of Table 2, and of the others those that were measured."""
    measured = {key for figures in systems.values() for key in figures}
    return [m for m in METRICS.values() if m.in_table2 or m.key in measured]


def best(systems: Mapping[str, Figures], metric: Metric) -> float | None:
    """The best measured value of a metric, None where none was measured."""
    values = [figures[metric.key]["value"] for figures in systems.values() if metric.key in figures]
    choose = min if metric.less_is_better else max
    return choose(values) if values else None


def number(value: float | None) -> str:
    """A figure as the tables print it: three digits that matter, a dash for none."""
    return "-" if value is None else metric_text(value)


def heading(metric: Metric) -> str:
    """A metric's title with an arrow to its better end."""
    return f"{metric.title} {'↓' if metric.less_is_better else '↑'}"


def markdown(set_name: str, systems: Mapping[str, Figures], counts: Counts) -> str:
    """The table, with notes under it."""
    metrics = columns(systems)
    leaders = {m.key: best(systems, m) for m in metrics}
    rows = [
        ["System", "clips", *map(heading, metrics)],
        ["---"] * (len(metrics) + 2),
        *(
            [
                name,
                f"{counts[name]['scored']} of {counts[name]['videos']}",
                *(measured(figures.get(m.key), leaders[m.key]) for m in metrics),
            ]
            for name, figures in systems.items()
        ),
    ]
    paper = published()
    for row in paper["row"]:
        cells = [_published(row.get(m.key), m) for m in metrics]
        rows.append([f"*{row['system']}*", "*published*", *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"Evaluation set: {set_name}. Best measured value in bold; in parentheses 95% bootstrap "
        f"intervals over clips.\n\n{table}\n\n"
        f"Rows in italics: {paper['source']}; {paper['note']}.\n\\* {paper['desync_note']}.\n"
    )


def measured(figure: Mapping[str, float] | None, leader: float | None = None) -> str:
    """A figure with its interval, where it has one; in bold where it is the leader's."""
    if figure is None:
        return "-"
    text = number(figure["value"])
    text = f"**{text}**" if figure["value"] == leader else text
    if "low" in figure:
        text += f" ({number(figure['low'])} to {number(figure['high'])})"
    return text


def _published(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if metric.comparable else "*")


def summary(systems: Mapping[str, Figures], counts: Counts) -> list[str]:
    """What could not be measured, and what is wrong with which files, a line each."""
    lines: list[str] = []
    for name in systems:
        count = counts[name]
        lines += [
            f"{name}: {METRICS[key].title} could not be measured: {why}"
            for key, why in count["unmeasured"].items()
        ]
        if len(count["formats"]) > 1:
            formats = (f"{number} of {kind}" for kind, number in count["formats"].items())
            lines.append(f"{name}: {', '.join(formats)}")
        wrong = [f"{count[kind]} {kind.replace('_', ' ')}" for kind in _WRONG if count[kind]]
        if wrong:
            lines.append(f"{name}: {', '.join(wrong)}")
            lines += [f"  {clip}: {why}" for clip, why in list(count["problems"].items())[:10]]
    return lines
