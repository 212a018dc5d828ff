"""The page of a curation.

What was dropped and why, by which scores, and clips of every kind to watch and hear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.report.charts import Histogram, Lines, counted, lines
from pipeline.report.figures import flat
from pipeline.report.html import asset, environment
from pipeline.report.sounds import data_uri
from warehouse.files import make_folder, write_file


@dataclass(frozen=True)
class Step:
    """A stage or gate: clips that it dropped and that were left, why (the most frequent first), and other reasons.

    `keep` is the condition of a gate, and empty for a stage.
    """

    name: str
    dropped: int
    left: int
    keep: str = ""
    reasons: tuple[tuple[str, int], ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Fact:
    """The distribution of one fact.

    Clips and kept clips by bin of low..high, and what the gates ask of it.
    """

    name: str
    comment: str
    low: float
    high: float
    clips: Sequence[int]
    kept: Sequence[int]
    bounds: tuple[tuple[str, float], ...] = ()  # (comparison, threshold)


@dataclass(frozen=True)
class Sweep:
    """Share of the clips that reach the gates and are kept, as one threshold moves and all others stay."""

    gate: str
    condition: str
    threshold: float
    kept: float
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Label:
    """Clips of a class before and after."""

    name: str
    clips: int
    kept: int


@dataclass(frozen=True)
class Sample:
    """One clip to watch and hear.

    `video` is an mp4 with sound, None where there is nothing to show.
    """

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
    """What the page shows; it computes no result of its own. `labels` are some of the `classes`, by their kept share.

    `flaws` is what `pipeline.curation.known_flaws` gives.
    """

    dataset: Mapping[str, Any]
    steps: Sequence[Step]
    facts: Sequence[Fact]
    sweeps: Sequence[Sweep]
    labels: Sequence[Label]
    classes: int
    bins: Sequence[Bin]
    flaws: Mapping[str, Mapping[str, Any]]
    seed: int


def write_curation_page(path: Path, page: CurationPage) -> None:
    """Write the page: in full or not at all.

    Raises FoleyError when the disk is full, read-only or forbidden.
    """
    content = render_curation(page).encode()
    folder = make_folder(path.absolute().parent)
    write_file(folder, lambda handle: handle.write(content), folder / path.name)


def render_curation(page: CurationPage, made_at: datetime | None = None) -> str:
    """The page as HTML text."""
    asked = [fact for fact in page.facts if fact.bounds]
    others = [fact for fact in page.facts if not fact.bounds]
    policy = page.dataset["policy"]
    about = {
        "policy": {k: v for k, v in policy.items() if k != "gates"},
        "fingerprints": page.dataset["fingerprints"],
    }
    return environment().get_template("curation.html.j2").render(
        page=page,
        policy=policy,
        most=max([1, *(step.left + step.dropped for step in page.steps)]),
        asked=[_stacked(fact) for fact in asked],
        others=[_stacked(fact) for fact in others],
        sweeps=[(sweep, _curve(sweep)) for sweep in page.sweeps],
        largest=max([1, *(label.clips for label in page.labels)]),
        uri=lambda video: data_uri(video, "video/mp4"),
        provenance=[(key, value) for key, value in flat(about) if key],
        style=asset("report.css") + asset("curation.css"),
        made_at=(made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def _stacked(fact: Fact) -> tuple[Fact, Histogram, Histogram]:
    """All clips of a fact, and the kept ones to be drawn over them, on the same axes."""
    most = max(fact.clips, default=1)
    span = (fact.low, fact.high)
    everything = counted(
        fact.name, fact.clips, span, most, [(f"keep {sign} ", bound) for sign, bound in fact.bounds]
    )
    return fact, everything, counted(fact.name, fact.kept, span, most)


def _curve(sweep: Sweep) -> Lines:
    at = [(sweep.threshold, 0.0), (sweep.threshold, sweep.kept)]
    return lines(
        sweep.condition,
        [("kept", "true", list(sweep.points)), ("now", "now", at)],
        height=110,
        floor=0.0,
    )
