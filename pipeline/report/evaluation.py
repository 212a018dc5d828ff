"""The page of an evaluation.

Table 2, what every mean is made of, and all systems' sounds under one video.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.report.charts import Histogram, histogram
from pipeline.report.data import ReportClip
from pipeline.report.figures import flat
from pipeline.report.html import asset, environment
from pipeline.report.players import player
from warehouse.files import make_folder, write_file

COLOURS = ("--true", "--other", "--swap", "--keep", "--drop", "--bad", "--plain", "--none")


@dataclass(frozen=True)
class Column:
    """One metric: its title, whether less is better, and how its numbers are printed."""

    key: str
    title: str
    less_is_better: bool
    comparable: bool  # with the published figures


@dataclass(frozen=True)
class EvaluationPage:
    """What the page shows; it computes no result of its own.

    `systems`: system -> metric -> value, low, high, clips. `counts`: system -> what was scored and
    what was wrong. `scores`: system -> clip -> metric -> value. `published`: source, note,
    desync_note and rows, as data.
    """

    set_name: str
    columns: Sequence[Column]
    clip_columns: Sequence[Column]
    systems: Mapping[str, Mapping[str, Mapping[str, float]]]
    counts: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    comparisons: Sequence[Mapping[str, Any]]
    published: Mapping[str, Any]
    provenance: Mapping[str, Any]
    prompts: Mapping[str, str]
    clips: Sequence[ReportClip] = ()
    notes: Sequence[str] = ()


def slug(name: str) -> str:
    """A name as part of a CSS class."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-") or "system"


def write_evaluation_page(path: Path, page: EvaluationPage) -> None:
    """Write the page: in full or not at all.

    Raises FoleyError when the disk is full, read-only or forbidden.
    """
    content = render_evaluation(page).encode()
    folder = make_folder(path.absolute().parent)
    write_file(folder, lambda handle: handle.write(content), folder / path.name)


def render_evaluation(page: EvaluationPage, made_at: datetime | None = None) -> str:
    """The page as HTML text."""
    return environment().get_template("evaluation.html.j2").render(
        page=page,
        best={c.key: _best(page, c) for c in page.columns},
        titles={c.key: c.title for c in page.columns},
        charts=_charts(page),
        players=[player(clip, spectrograms=True) for clip in page.clips],
        rows=_clip_rows(page),
        provenance=[(key, value) for key, value in flat(page.provenance) if key],
        slug=slug,
        colours=Markup(_colours(page)),  # noqa: S704 (made of slugs and our own names)
        style=asset("report.css") + asset("evaluation.css"),
        script=asset("player.js"),
        sorting=asset("evaluation.js"),
        made_at=(made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def _best(page: EvaluationPage, column: Column) -> float | None:
    values = [
        figures[column.key]["value"] for figures in page.systems.values() if column.key in figures
    ]
    return (min(values) if column.less_is_better else max(values)) if values else None


def _colours(page: EvaluationPage) -> str:
    names = [slug(name) for name in page.systems]
    return " ".join(
        f".c-{name} {{ --c: var({COLOURS[i % len(COLOURS)]}); }}" for i, name in enumerate(names)
    )


def _charts(page: EvaluationPage) -> list[tuple[Column, list[tuple[str, Histogram]]]]:
    """The distribution behind every mean: a histogram a system, all of a metric on one axis."""
    charts: list[tuple[Column, list[tuple[str, Histogram]]]] = []
    for column in page.clip_columns:
        by_system = {
            n: [r[column.key] for r in rows.values() if column.key in r]
            for n, rows in page.scores.items()
        }
        everything = [value for values in by_system.values() for value in values]
        if not everything:
            continue
        span = (min(everything), max(everything))
        drawn = [
            (n, histogram(n, values, height=70, span=span))
            for n, values in by_system.items()
            if values
        ]
        charts.append((column, drawn))
    return charts


def _clip_rows(page: EvaluationPage) -> list[tuple[str, str, str, Mapping[str, float]]]:
    """(clip, prompt, system, scores) of every scored sound."""
    return [
        (clip, page.prompts.get(clip, ""), name, scores)
        for name, clips in page.scores.items()
        for clip, scores in clips.items()
    ]
