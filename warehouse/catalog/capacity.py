"""The capacity plan: hours, disk and cost by stage for more clips, from what was measured here."""

from dataclasses import dataclass
from pathlib import Path

from warehouse.catalog.query import query
from warehouse.errors import FoleyError

# `busy` are the seconds in which any batch ran: a batch adds what comes after the end of all that
# began before it.
_STAGES = """
    with batches as (
        select stage, clips, seconds, file,
               epoch(committed_at) - seconds as began, epoch(committed_at) as ended
        from commits join fingerprints using (stage, fingerprint) where current and seconds > 0
    ), joined as (
        select *, max(ended) over (
            partition by stage order by began
            rows between unbounded preceding and 1 preceding
        ) as before from batches
    ), measured as (
        select stage, sum(clips)::BIGINT as clips, sum(seconds)::DOUBLE as seconds,
               list(distinct file) as files,
               sum(greatest(0, ended - greatest(began, coalesce(before, began))))::DOUBLE as busy
        from joined group by stage
    )
    select f.stage, m.clips, m.seconds, m.busy, m.files, p.model_revision <> '' as device,
           (f.passed + f.rejected + f.failed) / (select count(*) from clips) as share
    from funnel f join measured m using (stage) join fingerprints p using (stage, fingerprint)
    order by f.position"""
_CLIPS = "select coalesce(avg(bytes), 0) as bytes from clips where status = 'passed'"
#: Clips that a stage must have done before its rate counts: of fewer, loading models is most.
FEW = 100


@dataclass(frozen=True)
class Resources:
    """Devices for stages with models, cores for the others, and the price of an hour of each."""

    gpus: int = 1
    workers: int = 1
    gpu_price: float = 0.0
    worker_price: float = 0.0


@dataclass(frozen=True)
class StageCapacity:
    """A stage of the plan.

    `rate` is clips a second of one worker or device, as measured over `measured` clips.
    """

    stage: str
    device: bool
    clips: int
    rate: float
    measured: int
    hours: float
    gigabytes: float
    cost: float


@dataclass(frozen=True)
class CapacityPlan:
    """Stages in order; clips that come in and their gigabytes on disk."""

    clips: int
    source_gigabytes: float
    stages: list[StageCapacity]


def capacity(home: Path, clips: int, resources: Resources) -> CapacityPlan:
    """Plan for `clips` new clips.

    A stage's rate is that of its batches in this warehouse under the current settings. A worker's:
    clips over the wall seconds of batches, of which as many ran at once as there were cores. A
    device's: clips over the seconds in which any batch ran, because batches share it; of one
    device, so measure on one. The share of clips that comes to a stage is that of the clips here,
    so curate these to the end first. Raises FoleyError before anything was run.
    """
    rows = query(home, _STAGES).to_pylist()
    if not rows:
        advice = "run foley curate on some clips, best a few thousand"
        raise FoleyError(f"nothing was measured in {home} yet: {advice}")
    stages: list[StageCapacity] = []
    for row in rows:
        device = bool(row["device"])
        count = resources.gpus if device else resources.workers
        price = resources.gpu_price if device else resources.worker_price
        reach = clips * row["share"]
        rate = row["clips"] / row["busy" if device else "seconds"]
        hours = reach / rate / count / 3600
        size = sum(Path(file).stat().st_size for file in row["files"] if Path(file).is_file())
        stages.append(
            StageCapacity(
                stage=row["stage"],
                device=device,
                clips=round(reach),
                rate=rate,
                measured=int(row["clips"]),
                hours=hours,
                gigabytes=size / row["clips"] * reach / 1e9,
                cost=hours * count * price,
            )
        )
    source = clips * query(home, _CLIPS).to_pylist()[0]["bytes"] / 1e9
    return CapacityPlan(clips, source, stages)
