"""SQL of the catalog's tables that are computed from commits and from other tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warehouse.commits import Descriptor
from warehouse.files import Json
from warehouse.rows.live import PLACE, STAGE_ORDER, literal, present_input, quote, scan, sql_type
from warehouse.schema import CLIPS, MAX_ATTEMPTS, SPINE, is_array

if TYPE_CHECKING:
    from warehouse.datasets.versions import Dataset

#: Columns of the table `clips` beside those of its source.
CLIP_OUTCOME = ("error", "message", "committed_at", "generation", "commit")

#: All columns of the table `clips`.
CLIP_COLUMNS = ["clip_id", "status", *CLIPS.names, *CLIP_OUTCOME]

_BITS = 3
_COUNTS = """
    count(*) filter (status = 'passed') as passed,
    count(*) filter (status = 'rejected') as rejected,
    count(*) filter (status = 'failed') as failed"""

#: Sounds of `foley generate`, with the clip whose file their video is.
GENERATED_SOUNDS = """
    select g.sound, 'generate' as stage, min(c.clip_id) as clip_id, g.checkpoint
    from generated g left join clips c on c.sha256 = g.video_sha256
    group by g.sound, g.checkpoint"""


def history(descriptor: Descriptor, rows: str, current: bool) -> str:
    """Rows of a fingerprint as its history has them, but for `live`."""
    columns = [f"r.{quote(name)}" for name in SPINE.names]
    columns += [
        f"r.{quote(name)}::{type_} as {quote(name)}" for name, type_ in own(descriptor).items()
    ]
    return f"""
        select {", ".join(columns)},
               {literal(descriptor.fingerprint)} as fingerprint, {current} as current
        from {rows} r"""


def own(descriptor: Descriptor) -> dict[str, str]:
    """Types of a stage's own columns that are no arrays, by name."""
    return {f.name: sql_type(f.type) for f in descriptor.columns if not is_array(f)}


def columns(descriptor: Descriptor) -> list[str]:
    """Columns of a stage's commits that its history has."""
    return [*SPINE.names, *own(descriptor)]


def marked(descriptor: Descriptor, rows: str, once: bool) -> str:
    """Rows of a fingerprint's history with `live`: the best row of every input of a clip now.

    `once` is whether no input comes twice, so that nothing has to be sorted.
    """
    best = f"row_number() over (partition by r.input order by {STAGE_ORDER}) = 1"
    return f"""
        select r.*, c.input is not null and {"true" if once else best} as live
        from {rows} r
        left join (select {present_input(descriptor.reads)} as input from present p) c
        on r.input = c.input"""


#: What became of a clip in a stage, in three bits.
_CODE = f"""
    case status when 'passed' then 1 when 'rejected' then 2
    when 'failed' then if(attempt >= {MAX_ATTEMPTS}, 4, 3) else 5 end"""


@dataclass(frozen=True)
class Facts:
    """Where the funnel's numbers come from, as SQL behind `from`.

    Readable clips, live rows of a stage and fingerprint, and members of the dataset with `kept`.
    """

    clips: str
    live: Callable[[str, str], str]
    members: str


def published(dataset: Dataset | None, only: str) -> Facts:
    """The catalog's own tables: those rows for which the condition `only` holds."""
    sources = "clips anti join (select name from sources where removed) on name = source"
    version = literal(dataset.version if dataset else "")
    return Facts(
        f"{sources} where status = 'passed' {only}",
        lambda stage, fingerprint: (
            f"history.{quote(stage)} where live and fingerprint = {literal(fingerprint)} {only}"
        ),
        f"dataset_members where version = {version} {only}",
    )


def steps(
    stages: Sequence[Descriptor], dataset: Dataset | None, facts: Facts
) -> tuple[list[str], str]:
    """One row of all numbers of the funnel, five of each stage and one of the selection.

    Returns SQL of rows of what is `known` of clips, and of the numbers of the table of all of them.

    They are clips that reached the stage and, of these, passed, rejected, failed and quarantined
    ones; clips that passed the dataset's stages and are not in it. All are sums over clips. What is
    known of a clip is gathered as bits of one number, which takes a fraction of a join's memory.
    """
    current = {stage.stage: stage.fingerprint for stage in stages}
    judged = list(dataset.fingerprints.items()) if dataset else []
    keys = dict.fromkeys([*current.items(), *judged])
    kind = "BIGINT" if _BITS * (len(keys) + 2) < 63 else "HUGEINT"
    rows: list[str] = []

    def bits(value: str, size: int, table: str) -> str:
        """SQL of bits of a clip's number, which rows of a table set to a value."""
        at = _BITS * len(rows)
        rows.append(f"select clip_id, ({value})::{kind} << {at} as known from {table}")
        return f"(known >> {at}) & {size}"

    here = bits("1", 1, facts.clips)
    code = {key: bits(_CODE, 7, facts.live(*key)) for key in keys}
    member = bits("1 + kept::INTEGER", 3, facts.members) if dataset else ""
    counts: list[str] = []
    for stage in stages:
        mine = code[stage.stage, stage.fingerprint]
        reached = [f"{code[name, current[name]]} = 1" for name in stage.upstream if name in current]
        reached += [f"{member} = 2"] if stage.scope == "kept" and dataset else []
        reached += [f"{mine} > 0"] if stage.scope == "asked" else []
        is_ = " and ".join(reached) or "true"
        kinds = ("true", *(f"{mine} in ({codes})" for codes in ("1", "2", "3, 4", "4")))
        counts += [f"count(*) filter ({is_} and {what})" for what in kinds]
    if dataset:
        passed = [f"{member} = 0", *(f"{code[key]} = 1" for key in judged)]
        counts.append(f"count(*) filter ({' and '.join(passed)})")
    return (
        rows,
        f"""
        select {", ".join(counts) or "count(*)"}
        from (select bit_or(known) as known from all_known group by clip_id) where {here} = 1""",
    )


def funnel(
    numbers: Sequence[int], stages: Sequence[Descriptor], dataset: Dataset | None
) -> list[Json]:
    """Rows of the funnel: scores, the selection, and what comes after it."""
    names = ("reached", "passed", "rejected", "failed", "quarantined")
    rows: list[Json] = []
    for i, stage in enumerate(stages):
        row: Json = dict(zip(names, numbers[i * len(names) :], strict=False))
        row["waiting"] = row["reached"] - row["passed"] - row["rejected"] - row["failed"]
        rows.append({"stage": stage.stage, "fingerprint": stage.fingerprint} | row)
    if dataset:
        waiting, kept, judged = numbers[-1], dataset.counts["kept"], dataset.judged
        row = {"stage": "select", "fingerprint": dataset.version, "reached": judged + waiting}
        row |= {"passed": kept, "rejected": judged - kept, "failed": 0, "quarantined": 0}
        after = sum(stage.scope == "all" for stage in stages)
        rows.insert(after, row | {"waiting": waiting})
    return [row | {"position": position} for position, row in enumerate(rows, 1)]


def failures(stage: str) -> str:
    """Failed clips of a stage."""
    return f"""
        select {literal(stage)} as stage, s.clip_id, s.error, s.message, s.attempt,
               s.attempt >= {MAX_ATTEMPTS} as quarantined, s.committed_at, c.path, c.url
        from {quote(stage)} s join clips c using (clip_id) where s.status = 'failed'"""


def commits(key: str, files: Sequence[str]) -> str:
    """Commits of a "stage/fingerprint" in some of its files, each with the file that holds it."""
    stage, _, fingerprint = key.partition("/")
    rows = scan(files, ["commit", "status", "seconds", "committed_at", *PLACE])
    return f"""
        select "commit", {literal(stage)} as stage, {literal(fingerprint)} as fingerprint,
               count(*) as clips, {_COUNTS}, sum(seconds) as seconds,
               max(committed_at) as committed_at, filename as file
        from {rows} group by "commit", filename"""


def sounds(descriptor: Descriptor) -> str:
    """Sounds that a stage made."""
    stage = literal(descriptor.stage)
    return f"""
        select h.sound_sha256 as sound, {stage} as stage, h.fingerprint, h.clip_id,
               coalesce(json_extract_string(f.settings, '$.checkpoint'), f.model_revision)
                   as checkpoint
        from history.{quote(descriptor.stage)} h
        join fingerprints f on f.fingerprint = h.fingerprint and f.stage = {stage}
        where h.live and h.status = 'passed'"""


#: Fills the table `sources`, which holds the records, with what `clips` says of each.
SOURCES = """
create temp table found as
select source as name, count(*) as clips, count_if(status <> 'passed') as unreadable,
       max(committed_at) filter (status = 'passed') as newest_clip
from clips group by source;
insert into sources by name select name, false as removed from found anti join sources using (name);
update sources set clips = f.clips, unreadable = f.unreadable, newest_clip = f.newest_clip
from found f where f.name = sources.name;
update sources set clips = 0, unreadable = 0 where clips is null;
drop table found"""
