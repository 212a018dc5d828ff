"""The page of a curation: what was dropped and why, by which scores, and clips to see and hear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.report.charts import Axis, Histogram, Lines, counted, lines
from pipeline.report.figures import flat
from pipeline.report.html import page_html
from pipeline.report.sounds import data_uri
from warehouse.files import Json


@dataclass(frozen=True)
class Step:
    """A stage, or a gate with its condition: clips that it dropped and that were left."""

    name: str
    dropped: int
    left: int
    keep: str = ""
    reasons: tuple[tuple[str, int], ...] = ()  # the most frequent ones, with their clips
    more: int = 0  # other reasons


@dataclass(frozen=True)
class Fact:
    """One fact: clips and kept clips by bin of low..high, and the gates' (sign, threshold)."""

    name: str
    comment: str
    low: float
    high: float
    clips: Sequence[int]
    kept: Sequence[int]
    bounds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Share of the clips that reach the gates and are kept, as one threshold moves."""

    gate: str
    condition: str
    threshold: float
    kept: float
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Sample:
    """One clip to watch and hear: an mp4 with sound, or None where there is nothing to show."""

    clip_id: str
    prompt: str
    path: str
    facts: str
    video: bytes | None


@dataclass(frozen=True)
class Bin:
    """Random clips of those that were kept, or dropped for one reason."""

    name: str
    clips: int
    samples: Sequence[Sample]


@dataclass(frozen=True)
class CurationPage:
    """What the page shows."""

    dataset: Json
    steps: Sequence[Step]
    facts: Sequence[Fact]
    sweeps: Sequence[Sweep]
    labels: Sequence[Json]  # name, clips and kept of some classes, by kept share
    classes: int
    bins: Sequence[Bin]
    flaws: Mapping[str, Json]  # as pipeline.curation.known_flaws gives them
    seed: int


def render_curation(page: CurationPage) -> str:
    """The page as HTML text."""
    policy = page.dataset["policy"]
    about = {
        "policy": {key: value for key, value in policy.items() if key != "gates"},
        "fingerprints": page.dataset["fingerprints"],
    }
    return page_html(
        "curation.html.j2",
        page=page,
        policy=policy,
        gated=[_stacked(fact) for fact in page.facts if fact.bounds],
        others=[_stacked(fact) for fact in page.facts if not fact.bounds],
        sweeps=[(sweep, _curve(sweep)) for sweep in page.sweeps],
        uri=lambda video: data_uri(video, "video/mp4"),
        provenance={"": flat(about)},
    )


def _stacked(fact: Fact) -> tuple[Fact, Histogram, Histogram]:
    """All clips of a fact, and the kept ones to be drawn over them, on the same axes."""
    axis = Axis.around((fact.low, fact.high))
    bounds = axis.marks([(f"keep {sign} ", bound) for sign, bound in fact.bounds])
    everything = replace(counted(fact.name, fact.clips, axis), bounds=bounds)
    return fact, everything, counted(fact.name, fact.kept, axis, max(fact.clips))


def _curve(sweep: Sweep) -> Lines:
    now = [(sweep.threshold, 0.0), (sweep.threshold, sweep.kept)]
    series = [("kept", "true", sweep.points), ("now", "now", now)]
    return lines(sweep.condition, series, height=110, floor=0.0)
