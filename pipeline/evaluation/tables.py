"""Table 2 as Markdown, CSV and LaTeX.

What was measured here, and under it the paper's rows, marked as not measured.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.evaluation.scoring import METRICS
from pipeline.report.figures import metric_text

TITLES = {
    "kl_panns": "KL-PANNs",
    "kl_passt": "KL-PaSST",
    "ib": "IB",
    "fd_vgg": "FD-VGG",
    "fd_panns": "FD-PANNs",
    "fd_passt": "FD-PaSST",
    "desync": "DeSync",
    "is": "IS",
    "onset_f1": "Onset F1",
    "true_offset": "True offset, s",
}
LESS_IS_BETTER = METRICS | {"onset_f1": False, "true_offset": True}
NOT_COMPARABLE = "desync"

Figures = Mapping[str, Mapping[str, float]]  # metric -> value, low, high, clips


@cache
def published() -> dict[str, Any]:
    """The paper's Table 2 with its source and notes."""
    return tomllib.loads((Path(__file__).parent / "published.toml").read_text("utf-8"))


def columns(systems: Mapping[str, Figures]) -> list[str]:
    """Metrics to show: all of Table 2, and of the others those that were measured."""
    extra = [
        m for m in ("onset_f1", "true_offset") if any(m in figures for figures in systems.values())
    ]
    return [*METRICS, *extra]


def best(systems: Mapping[str, Figures], metric: str) -> float | None:
    """The best measured value of a metric, None where none was measured."""
    values = [figures[metric]["value"] for figures in systems.values() if metric in figures]
    return (min(values) if LESS_IS_BETTER[metric] else max(values)) if values else None


def number(value: float | None) -> str:
    """A figure as the tables print it: three digits that matter, a dash for none."""
    return "-" if value is None else metric_text(value)


def as_printed(value: float | None) -> str:
    """A published figure, in the two decimals that the paper gives."""
    return "-" if value is None else f"{value:.2f}"


def _headers(metrics: list[str], less: str, more: str) -> list[str]:
    return [f"{TITLES[m]} {less if LESS_IS_BETTER[m] else more}" for m in metrics]


def markdown(
    set_name: str, systems: Mapping[str, Figures], counts: Mapping[str, Mapping[str, Any]]
) -> str:
    """The table as Markdown, with intervals under it in words."""
    metrics = columns(systems)
    lines = [
        f"Evaluation set: {set_name}. Best measured value in bold; in parentheses 95% bootstrap intervals over clips.",
        "",
        "| System | clips | " + " | ".join(_headers(metrics, "↓", "↑")) + " |",
        "| --- | --- | " + " | ".join("---" for _ in metrics) + " |",
    ]
    for name, figures in systems.items():
        cells = [_cell(figures.get(m), best(systems, m)) for m in metrics]
        lines.append(
            f"| {name} | {counts[name]['scored']} of {counts[name]['videos']} | "
            + " | ".join(cells)
            + " |"
        )
    paper = published()
    for row in paper["row"]:
        cells = [
            as_printed(row.get(m)) + ("*" if m == NOT_COMPARABLE and m in row else "")
            for m in metrics
        ]
        lines.append(f"| *{row['system']}* | *published* | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Rows in italics: {paper['source']}; {paper['note']}.",
        f"\\* {paper['desync_note']}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(figure: Mapping[str, float] | None, leader: float | None) -> str:
    if figure is None:
        return "-"
    text = number(figure["value"])
    text = f"**{text}**" if figure["value"] == leader else text
    return text + (
        f" ({number(figure['low'])} to {number(figure['high'])})" if "low" in figure else ""
    )


def as_csv(systems: Mapping[str, Figures], counts: Mapping[str, Mapping[str, Any]]) -> str:
    """Every figure in full, one row a system; `origin` says measured or published."""
    metrics = columns(systems)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sides = [f"{m}{end}" for m in metrics for end in ("", "_low", "_high")]
    writer.writerow(
        [
            "system",
            "origin",
            "videos",
            "scored",
            "missing",
            "broken",
            "silent",
            "short",
            *sides,
            "note",
        ]
    )
    for name, figures in systems.items():
        kept = counts[name]
        values = [
            figures.get(m, {}).get(key, "") for m in metrics for key in ("value", "low", "high")
        ]
        parts = [kept[key] for key in ("videos", "scored", "missing", "broken", "silent", "short")]
        writer.writerow([name, "measured", *parts, *values, ""])
    paper = published()
    for row in paper["row"]:
        values = [value for m in metrics for value in (row.get(m, ""), "", "")]
        note = f"{paper['source']}; {paper['note']}; desync {paper['desync_note']}"
        writer.writerow([row["system"], "published", *[""] * 6, *values, note])
    return out.getvalue()


def latex(set_name: str, systems: Mapping[str, Figures]) -> str:
    """The table for a paper (package booktabs)."""
    metrics = columns(systems)
    lines = [
        f"% Evaluation set: {_escaped(set_name)}",
        r"\begin{tabular}{l" + "r" * len(metrics) + "}",
        r"\toprule",
        "System & " + " & ".join(_headers(metrics, r"$\downarrow$", r"$\uparrow$")) + r" \\",
        r"\midrule",
    ]
    for name, figures in systems.items():
        cells: list[str] = []
        for m in metrics:
            value = figures[m]["value"] if m in figures else None
            cells.append(
                rf"\textbf{{{number(value)}}}"
                if value is not None and value == best(systems, m)
                else number(value)
            )
        lines.append(f"{_escaped(name)} & " + " & ".join(cells) + r" \\")
    paper = published()
    lines += [
        r"\midrule",
        rf"\multicolumn{{{len(metrics) + 1}}}{{l}}{{\emph{{{paper['source']}; {paper['note']}}}}} \\",
    ]
    for row in paper["row"]:
        cells = [
            as_printed(row.get(m)) + (r"$^*$" if m == NOT_COMPARABLE and m in row else "")
            for m in metrics
        ]
        lines.append(rf"\emph{{{_escaped(row['system'])}}} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% * {paper['desync_note']}", ""])


def _escaped(text: str) -> str:
    return "".join(
        {"_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$"}.get(c, c) for c in text
    )
