"""The demo's report: what its figures prove, clips to hear, and under what they came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.report.charts import Lines, lines, smoothed, thinned
from pipeline.report.figures import flat, get, is_number
from pipeline.report.html import page_html
from pipeline.report.players import ReportClip, player

Verdict = Literal["proved", "leaning", "unproved", "unmeasured"]
#: Onset F1 at 60 ms that the demo sets out to reach: at least, with a clip's own video, and at
#: most, with another's or none. Of procedural clips, and of worlds by level: there more happens.
GOAL, GOALS = (0.8, 0.25), {1: (0.8, 0.35), 2: (0.65, 0.35), 3: (0.5, 0.35)}
DRAWN = ("funnel", "curation", "seconds", "machine", "versions")  # shown in sections of their own


@dataclass(frozen=True)
class Claim:
    """A figure of worlds beside their time, with what it set out to be."""

    name: str  # in results.json, under worlds
    title: str
    about: str
    style: str = "percent"
    goal: float | None = None
    at_most: bool = False  # whether less is better


CLAIMS = (
    Claim(
        "force", "Force", "rank correlation of the loudness that was made with the true one, at "
        "visible hits", "f1", 0.6,
    ),
    Claim("place", "Place", "of visible hits off the middle sound on the right side", goal=0.85),
    Claim(
        "cause", "Cause",
        "of {pairs} pairs: what differs in one act is heard there, and nowhere else", goal=0.8,
    ),
    Claim(
        "visible_material_accuracy", "Material",
        "of sounds without a prompt are of the material that is seen", goal=0.7,
    ),
    Claim(
        "false_onsets", "Rest", "onsets a second while things are carried, and nothing sounds",
        "f1", 0.1, at_most=True,
    ),
    Claim("unseen_hits_met", "Unseen", "of hits outside the picture have an onset"),
)  # fmt: skip


@dataclass(frozen=True)
class ReportData:
    """Everything in the report; a section whose part is empty says that it was not measured."""

    results: Mapping[str, object]  # results.json, from which every figure shown is formatted
    loss: Sequence[Sequence[float]] = ()  # (step, loss)
    validation: Sequence[Sequence[float]] = ()  # (step, true, null, other), all v-losses
    clips: Sequence[ReportClip] = ()
    pair: Sequence[ReportClip] = ()  # two worlds, of which one act differs
    curation_page: str = ""  # name of the dataset's page in the same folder
    note: str = ""  # what its scores are worth
    title: str = "foley demo"


def render_report(data: ReportData) -> str:
    """The report as HTML text."""
    return page_html(
        "report.html.j2",
        ("player.js",),
        data=data,
        results=data.results,
        get=get,
        verdict=verdict(data.results),
        goal=goal(data.results),
        loss=loss_chart(data),
        validation=validation_chart(data),
        provenance=provenance(data.results),
        players=[player(clip) for clip in data.clips],
        pair=[player(clip) for clip in data.pair],
        claims=claims(data.results),
    )


def goal(results: Mapping[str, object]) -> tuple[float, float]:
    """The F1 to reach with a clip's own video, and that not to reach otherwise."""
    level = results.get("level")
    return GOALS[level] if isinstance(level, int) else GOAL


def verdict(results: Mapping[str, object]) -> Verdict:
    """What the sync table proves: timing is the picture's if only a clip's own video gives it."""
    scores = [get(results, "sync", name, "f1_60ms") for name in ("true", "other", "none")]
    if not all(map(is_number, scores)):
        return "unmeasured"
    true, control = scores[0], max(scores[1:])
    at_least, at_most = goal(results)
    if true >= at_least and control <= at_most:
        return "proved"
    return "leaning" if true > 1.5 * control else "unproved"


def claims(results: Mapping[str, object]) -> list[tuple[Claim, float, bool | None]]:
    """Those that were measured, with the figure, and whether it is what it set out to be."""
    pairs = get(results, "worlds", "pairs") or 0
    found: list[tuple[Claim, float, bool | None]] = []
    for claim in CLAIMS:
        value = get(results, "worlds", claim.name)
        if is_number(value):
            reached = None if claim.goal is None else value >= claim.goal
            if claim.goal is not None and claim.at_most:
                reached = value <= claim.goal
            told = replace(claim, about=claim.about.format(pairs=pairs))
            found.append((told, value, reached))
    return found


def loss_chart(data: ReportData) -> Lines:
    """Training loss by step: each batch, and a running mean."""
    points = thinned([(step, loss) for step, loss in data.loss])
    series = [("each step", "faint", points), ("running mean", "true", smoothed(points))]
    return lines("Training v-loss by step", series)


def validation_chart(data: ReportData) -> Lines:
    """Validation v-loss by step, with the clip's own video, another clip's and none."""
    names = [
        ("true video", "true", 1),
        ("another clip's video", "other", 3),
        ("no video", "none", 2),
    ]
    series = [
        (name, style, [(row[0], row[column]) for row in data.validation])
        for name, style, column in names
    ]
    return lines("Validation v-loss by step", series)


def provenance(results: Mapping[str, object]) -> dict[str, list[tuple[str, object]]]:
    """Where the figures come from, and all figures that no chart shows, by group."""
    groups = {
        "Results": {key: value for key, value in results.items() if key not in DRAWN},
        "Machine": results.get("machine"),
        "Versions": results.get("versions"),
    }
    return {name: flat(values) for name, values in groups.items() if values}
