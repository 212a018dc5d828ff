"""SQL of the catalog's tables that are computed from commits and from other tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warehouse.commits import CommitListing, Descriptor
from warehouse.rows.live import (
    PLACE,
    STAGE_ORDER,
    literal,
    present_input,
    quote,
    scan,
    sql_type,
    value,
)
from warehouse.schema import MAX_ATTEMPTS, SPINE, is_array

if TYPE_CHECKING:
    import duckdb

    from warehouse.datasets.versions import Dataset

#: Columns of the table `clips` beside those of its source.
CLIP_OUTCOME = ("error", "message", "committed_at", "generation", "commit")

_COUNTS = """
    count(*) filter (status = 'passed') as passed,
    count(*) filter (status = 'rejected') as rejected,
    count(*) filter (status = 'failed') as failed"""

#: Sounds of `foley generate`, with the clip whose file their video is.
GENERATED_SOUNDS = """
    select g.sound, 'generate' as stage, min(c.clip_id) as clip_id, g.checkpoint
    from generated g left join clips c on c.sha256 = g.video_sha256
    group by g.sound, g.checkpoint"""


def history(
    con: duckdb.DuckDBPyConnection, descriptor: Descriptor, listing: CommitListing, current: bool
) -> str:
    """All rows of a fingerprint; `live` marks the best row of every input that a clip has now."""
    own = {f.name: sql_type(f.type) for f in descriptor.columns if not is_array(f)}
    columns = [f"r.{quote(name)}" for name in SPINE.names if name != "input"]
    columns += [f"r.{quote(name)}::{type_} as {quote(name)}" for name, type_ in own.items()]
    inputs = scan(listing.files, ["input"])
    best = "true"
    if value(con, f"select count(*) <> count(distinct input) from {inputs}"):
        best = f"row_number() over (partition by r.input order by {STAGE_ORDER}) = 1"
    return f"""
        select {", ".join(columns)},
               {literal(descriptor.fingerprint)} as fingerprint, {current} as current,
               c.input is not null and {best} as live
        from {scan(listing.files, [*SPINE.names, *own])} r
        left join (select {present_input(descriptor.reads)} as input from present p) c
        on r.input = c.input"""


def members(dataset: Dataset) -> str:
    """The members of a dataset version."""
    file = literal(str(dataset.path / "members.parquet"))
    return f"select {literal(dataset.version)} as version, * from read_parquet({file})"


def funnel(position: int, descriptor: Descriptor) -> str:
    """The funnel's row of a stage."""
    reached = " ".join(
        f"semi join (from {quote(stage)} where status = 'passed') using (clip_id)"
        for stage in descriptor.upstream
    )
    return f"""
        select {position} as position, {literal(descriptor.stage)} as stage,
               {literal(descriptor.fingerprint)} as fingerprint, count(*) as reached, {_COUNTS},
               count(*) filter (status = 'failed' and attempt >= {MAX_ATTEMPTS}) as quarantined,
               count(*) filter (status is null or status = 'released') as waiting
        from (select clip_id from clips {reached} where status = 'passed')
        left join {quote(descriptor.stage)} using (clip_id)"""


def failures(stage: str) -> str:
    """Failed clips of a stage."""
    return f"""
        select {literal(stage)} as stage, s.clip_id, s.error, s.message, s.attempt,
               s.attempt >= {MAX_ATTEMPTS} as quarantined, s.committed_at, c.path, c.url
        from {quote(stage)} s join clips c using (clip_id) where s.status = 'failed'"""


def commits(key: str, listing: CommitListing) -> str:
    """Commits of a "stage/fingerprint", each with the file that holds it."""
    stage, _, fingerprint = key.partition("/")
    rows = scan(listing.files, ["commit", "status", "seconds", "committed_at", *PLACE])
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
