"""The page of the catalog: what a warehouse holds, made anew whenever it is asked for."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.report.charts import Lines, lines, smoothed, thinned
from pipeline.report.html import page_html
from warehouse.catalog.query import query
from warehouse.files import Json

_LATEST = 20  # versions, checkpoints, evaluations and runs
_CURVES = 6  # checkpoints with curves

_QUERIES = {
    "stages": "select * from funnel order by position",
    "datasets": f"""
        select version, name, created_at, policy->>'name' as policy, clips, kept, dropped, train,
               val, test, added, removed, moved, funnel
        from datasets order by created_at desc, number desc limit {_LATEST}""",
    "failures": """
        select stage, error, count(*) as clips, count(*) filter (quarantined) as "left alone",
               any_value(clip_id) as "such as", any_value(message) as message
        from failures group by stage, error order by clips desc limit 50""",
    "checkpoints": f"""
        select id, created_at, preset, dataset, steps, seed, parent, record
        from checkpoints order by created_at desc limit {_LATEST}""",
    "evaluations": f"""
        select system, checkpoint, dataset, created_at, record
        from evaluations order by created_at desc, system limit {_LATEST}""",
    "runs": f"""
        select coalesce(record->>'flow_run', flow) as run, state, started_at,
               round(seconds, 1) as seconds, dataset,
               regexp_replace(record->>'error', '^FoleyError: ', '') as error
        from runs order by started_at desc limit {_LATEST}""",
}
_OPTIONAL = {  # tables that a catalog of an earlier version has not
    "sources": """
        select name, kind, place, clips, unreadable, newest_clip, scanned_at,
               if(removed, 'removed', error) as error
        from sources order by removed, name""",
    "health": """
        select what, subject, message, checked_at, ok from health
        where checked_at = (select max(checked_at) from health)""",
}


def catalog_page(home: Path) -> str:
    """The page as HTML. Raises FoleyError where nothing was published yet."""
    there = {row["table_name"] for row in _rows(home, "select table_name from duckdb_tables()")}
    queries = _QUERIES | {name: sql for name, sql in _OPTIONAL.items() if name in there}
    found: Json = dict.fromkeys(_OPTIONAL, ())
    found |= {name: _rows(home, sql) for name, sql in queries.items()}
    found["evaluations"] = _with_figures(found["evaluations"])
    records = [json.loads(row.pop("record")) for row in found["checkpoints"]]
    shown = zip(found["checkpoints"], records, strict=True)
    reports = home / "reports"
    return page_html(
        "catalog.html.j2",
        over_time=_funnels(found["datasets"]),
        curves=[(row["id"], _training(record)) for row, record in shown][:_CURVES],
        pages={path.name for path in reports.glob("curation-*.html")},
        most=max((row["clips"] for row in found["datasets"]), default=1),
        provenance={"": [("home", home)]},
        **found,
    )


def _rows(home: Path, sql: str) -> list[dict[str, object]]:
    return query(home, sql).to_pylist()


def _with_figures(evaluations: Sequence[Json]) -> list[dict[str, object]]:
    """A column a figure; one with an interval or a count is a mapping with its `value`."""
    figures: list[dict[str, object]] = []
    for evaluation in evaluations:
        found: dict[str, object] = json.loads(evaluation.pop("record")).get("figures", {})
        values = {k: v.get("value") if isinstance(v, dict) else v for k, v in found.items()}
        figures.append({k: v for k, v in values.items() if isinstance(v, int | float)})
    names = dict.fromkeys(name for values in figures for name in values)
    return [
        row | {name: values.get(name) for name in names}
        for row, values in zip(evaluations, figures, strict=True)
    ]


def _funnels(datasets: Sequence[Json]) -> list[tuple[str, list[int | None]]]:
    """Clips left after each step, by version, newest first; None where it had no such step."""
    left: list[dict[str, int]] = []
    for dataset in datasets:
        steps = json.loads(dataset.pop("funnel"))
        left.append({step["step"]: step["left"] for step in steps})
    names = dict.fromkeys(name for version in left for name in version)
    return [(name, [version.get(name) for version in left]) for name in names]


def _training(record: Json) -> Lines:
    """Loss of the training, and of held-out clips with their own video and another one."""
    losses, validation = record.get("losses", ()), record.get("validation", ())
    training = smoothed([(row[0], row[1]) for row in losses]) if losses else []
    series = [("training", "faint", thinned(training))]
    for column, name, style in ((1, "own video", "true"), (3, "another's video", "other")):
        series.append((name, style, thinned([(row[0], row[column]) for row in validation])))
    return lines("v-loss over steps", series, height=140)
