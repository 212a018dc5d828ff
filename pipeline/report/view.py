"""From results to what the template prints: rows, shares of bars, which sentence holds.

No figure is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.report.charts import Histogram, Lines, histogram, lines, smoothed, thinned
from pipeline.report.data import ReportData, Score
from pipeline.report.figures import flat, get, is_number

Verdict = Literal["proved", "leaning", "unproved", "unmeasured"]
TRUE_AT_LEAST, CONTROL_AT_MOST = 0.8, 0.25  # onset F1 at 60 ms that the demo sets out to reach
THINNEST = 0.6  # percent of a bar: a single dropped clip among thousands is still seen

SHOWN_APART = {
    "sync",
    "v_loss",
    "prompt_swap",
    "funnel",
    "curation",
    "seconds",
    "seed",
    "versions",
    "machine",
    "commit",
}
SCORE_GROUPS = (
    ("silence", "Silence", ("silent_share",)),
    ("imagebind", "ImageBind", ("imagebind",)),
    ("audiobox", "Audiobox Aesthetics", ("ce", "cu", "pc", "pq")),
    ("synchformer", "Synchformer", ("desync",)),
    ("panns", "PANNs", ("speech_share", "music_share")),
)
SCORE_TITLES = {
    "silent_share": "Silent share of the sound",
    "imagebind": "Sound and picture, cosine",
    "ce": "Content enjoyment (CE)",
    "cu": "Content usefulness (CU)",
    "pc": "Production complexity (PC)",
    "pq": "Production quality (PQ)",
    "desync": "Sound and picture apart, s (DeSync)",
    "speech_share": "Share of time with speech",
    "music_share": "Share of time with music",
}


@dataclass(frozen=True)
class FunnelRow:
    """One stage: its counts, and the width in percent of each part of its bar."""

    stage: str
    passed: Any
    rejected: Any
    failed: Any
    shares: tuple[float, float, float]
    reasons: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ScoreGroup:
    """The histograms of one scoring stage."""

    stage: str
    title: str
    charts: tuple[Histogram, ...]


@dataclass(frozen=True)
class Step:
    """A step's seconds, and its share of the steps' bar in percent."""

    name: str
    seconds: Any
    start: float
    width: float


def number(value: Any) -> float:
    """A figure as a number to draw with; 0 where it is missing."""
    return float(value) if is_number(value) else 0.0


def verdict(results: Mapping[str, Any]) -> Verdict:
    """What the sync table proves.

    Timing comes from the picture if only the clip's own video gives it.
    """
    scores = [get(results, "sync", name, "f1_60ms") for name in ("true", "other", "none")]
    if not all(map(is_number, scores)):
        return "unmeasured"
    true, other, none = scores
    if true >= TRUE_AT_LEAST and max(other, none) <= CONTROL_AT_MOST:
        return "proved"
    return "leaning" if true > 1.5 * max(other, none) else "unproved"


def funnel_rows(results: Mapping[str, Any]) -> list[FunnelRow]:
    """The curation funnel, bars on the scale of the largest stage."""
    stages: Sequence[Mapping[str, Any]] = get(results, "funnel") or []
    counts = [tuple(number(s.get(k)) for k in ("passed", "rejected", "failed")) for s in stages]
    most = max((sum(c) for c in counts), default=0.0) or 1.0
    rows: list[FunnelRow] = []
    for stage, (passed, rejected, failed) in zip(stages, counts, strict=True):
        dropped = [max(THINNEST, 100 * n / most) if n else 0.0 for n in (rejected, failed)]
        shares = (
            max(0.0, 100 * (passed + rejected + failed) / most - sum(dropped)),
            dropped[0],
            dropped[1],
        )
        reasons: Mapping[str, Any] = stage.get("reasons") or {}
        ranked = tuple(sorted(reasons.items(), key=lambda item: -number(item[1])))
        name = str(stage.get("stage", ""))
        rows.append(
            FunnelRow(
                name,
                stage.get("passed"),
                stage.get("rejected"),
                stage.get("failed"),
                shares,
                ranked,
            )
        )
    return rows


def steps(results: Mapping[str, Any]) -> list[Step]:
    """Seconds by step, without the total."""
    seconds: Mapping[str, Any] = get(results, "seconds") or {}
    named = [(k, v) for k, v in seconds.items() if k != "total"]
    whole = sum(number(v) for _, v in named) or 1.0
    found: list[Step] = []
    start = 0.0
    for name, value in named:
        width = 100 * number(value) / whole
        found.append(Step(name, value, start, width))
        start += width
    return found


def score_groups(scores: Mapping[str, Score]) -> list[ScoreGroup]:
    """Histograms by scoring stage; scores of other stages come last, under their own names."""
    known = {name for _, _, names in SCORE_GROUPS for name in names}
    others = tuple(name for name in scores if name not in known)
    groups = [*SCORE_GROUPS, ("scores_other", "Other scores", others)]
    return [
        ScoreGroup(
            stage, title, tuple(_chart(name, scores[name]) for name in names if name in scores)
        )
        for stage, title, names in groups
        if any(name in scores for name in names)
    ]


def _chart(name: str, score: Score) -> Histogram:
    return histogram(SCORE_TITLES.get(name, name), score.values, score.minimum, score.maximum)


def loss_chart(data: ReportData) -> Lines:
    """Training loss by step: each batch, and a running mean."""
    points = thinned([(float(a), float(b)) for a, b in data.loss])
    return lines(
        "Training v-loss by step",
        [("each step", "faint", points), ("running mean", "true", smoothed(points))],
    )


def validation_chart(data: ReportData) -> Lines:
    """Validation v-loss by step, with the clip's own video, another clip's and none."""
    rows = data.validation
    series = [
        ("true video", "true", [(float(r[0]), float(r[1])) for r in rows]),
        ("another clip's video", "other", [(float(r[0]), float(r[3])) for r in rows]),
        ("no video", "none", [(float(r[0]), float(r[2])) for r in rows]),
    ]
    return lines("Validation v-loss by step", series)


def provenance(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Where the figures come from.

    (group, leaves), and whatever else results holds that no section shows.
    """
    run = [(key, results[key]) for key in ("seed", "commit") if key in results]
    rest = flat({key: value for key, value in results.items() if key not in SHOWN_APART})
    extra = flat(
        {key: _unshown(results.get(key), shown) for key, shown in SHOWN_IN_SECTIONS.items()}
    )
    groups = [
        ("Run", run + rest + extra),
        ("Machine", flat(results.get("machine") or {})),
        ("Versions", flat(results.get("versions") or {})),
    ]
    return [
        (name, [(key, value) for key, value in leaves if key]) for name, leaves in groups if leaves
    ]


SYNC_FIGURES = ("f1_60ms", "f1_100ms", "mae_ms")
SHOWN_IN_SECTIONS: dict[str, Any] = {
    "sync": dict.fromkeys(("true", "other", "none"), SYNC_FIGURES),
    "v_loss": ("true", "null", "other"),
    "prompt_swap": ("material_accuracy", "f1_60ms"),
}


def _unshown(value: Any, shown: Any) -> Any:
    """The part of a nested result whose keys no section prints."""
    if not isinstance(value, Mapping):
        return {}
    items: list[tuple[Any, Any]] = list(value.items())
    if isinstance(shown, Mapping):
        return {k: _unshown(v, shown[k]) if k in shown else v for k, v in items}
    return {k: v for k, v in items if k not in shown}
