"""The page of an evaluation: Table 2, what every mean is made of, all systems under one video."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from model.metrics.onsets import detect_onsets
from model.presets.preset import Preset
from pipeline.evaluation import tables
from pipeline.evaluation.evaluation import Evaluation, Setup
from pipeline.evaluation.metrics import BY_CLIP, METRICS, Metric
from pipeline.evaluation.scoring import ClipScores
from pipeline.evaluation.sets import Item, System
from pipeline.media import MediaError, read_audio
from pipeline.report import ReportClip, ReportSound, html
from pipeline.report.charts import Histogram, histogram
from pipeline.report.figures import flat
from pipeline.report.players import player

PLAYERS = 12
PLAYABLE = frozenset({".mp4", ".m4v", ".webm"})
COLOURS = ("--true", "--other", "--swap", "--keep", "--drop", "--bad", "--plain", "--none")
_TOY = (
    "These networks are the toy's: small, and trained by this project on procedural clips. Their "
    "figures compare systems on such clips with each other, and with no published figure."
)


def render_page(evaluation: Evaluation, setup: Setup) -> str:
    """The page as HTML text."""
    items = {item.name: item for item in setup.evaluated.items}
    chosen = worst_and_best(evaluation.clips, list(items))
    clips = [_clip(items[name], setup.systems, setup.preset) for name in chosen]
    columns = tables.columns(evaluation.systems)
    measured = {
        key for rows in evaluation.clips.values() for scores in rows.values() for key in scores
    }
    clip_columns = [m for m in METRICS.values() if m.key in measured]
    about = dict(evaluation.provenance)
    about["stages"] = {
        name: json.dumps(settings).strip("{}").replace('"', "")
        for name, settings in about["stages"].items()
    }
    return html.page_html(
        "evaluation.html.j2",
        ("player.js", "evaluation.js"),
        evaluation=evaluation,
        columns=columns,
        clip_columns=clip_columns,
        published=tables.published(),
        note=_TOY if setup.preset.untrained else "",
        best={m.key: tables.best(evaluation.systems, m) for m in columns},
        titles={key: metric.title for key, metric in METRICS.items()},
        distributions=list(_charts(evaluation.clips, clip_columns)),
        players=[player(clip, spectrograms=True) for clip in clips if clip],
        rows=[
            (clip, items[clip].prompt, system, scores)
            for system, rows in evaluation.clips.items()
            for clip, scores in rows.items()
        ],
        provenance={"": flat(about)},
        slug=slug,
        colours=Markup(_colours(evaluation.systems)),  # noqa: S704 (slugs and our own names)
    )  # fmt: skip


def slug(name: str) -> str:
    """A name as part of a CSS class."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-") or "system"


def _colours(systems: Mapping[str, object]) -> str:
    return " ".join(
        f".c-{slug(name)} {{ --c: var({COLOURS[i % len(COLOURS)]}); }}"
        for i, name in enumerate(systems)
    )


def _charts(
    clips: Mapping[str, ClipScores], metrics: Sequence[Metric]
) -> Iterator[tuple[Metric, list[tuple[str, Histogram]]]]:
    """The distribution behind every mean: a histogram a system, all of a metric on one axis."""
    for metric in metrics:
        values = {
            name: [row[metric.key] for row in rows.values() if metric.key in row]
            for name, rows in clips.items()
        }
        everything = [value for part in values.values() for value in part]
        span = (min(everything), max(everything))
        drawn = {n: histogram(n, part, height=70, span=span) for n, part in values.items() if part}
        yield metric, list(drawn.items())


def worst_and_best(
    clips: Mapping[str, ClipScores], names: Sequence[str], count: int = PLAYERS
) -> list[str]:
    """Clips on which the first system does worst, then best, by mean rank over its clip metrics."""
    scores = next(iter(clips.values()), {})
    scored = [name for name in names if scores.get(name)]
    ranks = np.zeros(len(scored))
    for metric in BY_CLIP:
        sign = 1 if metric.less_is_better else -1
        values = np.array([sign * scores[name].get(metric.key, np.inf) for name in scored])
        ranks += np.argsort(np.argsort(values, kind="stable"), kind="stable")
    ordered = [scored[i] for i in np.argsort(-ranks, kind="stable")]
    half = count // 2
    return ordered if len(ordered) <= count else ordered[:half] + ordered[-half:]


def _clip(item: Item, systems: Sequence[System], preset: Preset) -> ReportClip | None:
    """A clip with its true sound and every system's; None for a video that no browser plays."""
    if item.video.suffix.lower() not in PLAYABLE:
        return None
    files = {"original": item.reference}
    files |= {slug(s.name): s.sounds[item.name] for s in systems if item.name in s.sounds}
    impacts = (item.truth or {}).get("impacts", ())
    sounds: dict[str, ReportSound] = {}
    for name, path in files.items():
        try:
            audio = read_audio(path, preset.sample_rate, max_seconds=preset.evaluation_seconds)
        except MediaError:
            continue  # counted among the broken ones
        onsets = detect_onsets(audio, preset.sample_rate).tolist() if impacts else ()
        sounds[name] = ReportSound(audio, preset.sample_rate, onsets)
    return ReportClip(item.name, item.prompt or item.name, item.video.read_bytes(), sounds, impacts)
