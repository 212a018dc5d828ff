"""Health: whether clips still come, are kept as they were, and pass; what is not well is told."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pipeline.curation.registry import newest_clips, registered
from warehouse import Warehouse, status
from warehouse.datasets.corpus import newest_dataset


@dataclass(frozen=True)
class Limits:
    """Largest values that are well: days without a new clip (None: any), and shares of clips."""

    days: float | None = 30
    moved: float = 0.1
    failed: float = 0.05


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `value` is in days or a share of clips, None for an error."""

    what: str
    subject: str
    value: float | None
    most: float | None
    message: str

    @property
    def ok(self) -> bool:
        """Whether it is well."""
        return self.value is not None and self.most is not None and self.value <= self.most


def check_health(wh: Warehouse, limits: Limits, now: datetime) -> list[Check]:
    """All checks of a warehouse: its sources, its own dataset's newest version, its stages."""
    return [*_sources(wh, limits, now), *_drift(wh, limits.moved), *_failures(wh, limits.failed)]


def _sources(wh: Warehouse, limits: Limits, now: datetime) -> Iterator[Check]:
    newest = newest_clips(wh)
    for source in registered(wh):
        if source.error:
            yield Check("scan", source.name, None, None, f"source {source.name}: {source.error}")
        if limits.days is None:
            continue
        at, days = newest.get(source.name), None
        message = f"source {source.name} gave no clip yet"
        if at is not None:
            days = (now - at).total_seconds() / 86400
            message = f"source {source.name} gave nothing new for {days:.1f} days"
        yield Check("freshness", source.name, days, limits.days, message)


def _drift(wh: Warehouse, most: float) -> Iterator[Check]:
    newest = newest_dataset(wh)
    before = {dataset.version: dataset for dataset in wh.datasets()}
    if newest is None or newest.previous not in before:
        return
    then, now = (
        dataset.counts["kept"] / max(1, dataset.counts["clips"])
        for dataset in (before[newest.previous], newest)
    )
    message = f"dataset {newest.version} keeps {now:.1%} of the clips, the one before {then:.1%}"
    yield Check("drift", newest.version, abs(now - then), most, message)


def _failures(wh: Warehouse, most: float) -> Iterator[Check]:
    state = status(wh)
    counts = {"clips": (state.unreadable, state.clips + state.unreadable)}
    counts |= {s.stage: (s.failed, s.passed + s.rejected + s.failed) for s in state.stages}
    for stage, (failed, done) in counts.items():
        if done:
            message = f"{failed} of {done} clips failed {stage}"
            yield Check("failures", stage, failed / done, most, message)
