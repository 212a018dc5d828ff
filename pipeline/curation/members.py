"""The SQL of a selection: which clips a policy drops and why, and in which split the others are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.curation.gates import Policy
from warehouse.rows.live import (
    STAGE_ORDER,
    clips_sql,
    literal,
    newest,
    present_input,
    quote,
    scan,
    sql_type,
    value,
)
from warehouse.rows.read import id_table
from warehouse.schema import is_array

#: Why a clip is left out that no stage or gate dropped.
DIVIDED = "split: its source video is in another"

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from warehouse.commits import CommitListing, Descriptor


def make_chosen(
    con: duckdb.DuckDBPyConnection, clips: CommitListing, clip_ids: Sequence[str] | None
) -> None:
    """Make the tables `chosen`, the clips that the dataset is about, and `videos`.

    The latter holds the source videos of which some clip was given its split by its source: the one
    that is held out furthest. All clips of the warehouse count, so that what becomes of a clip does
    not depend on which others are chosen.
    """
    wanted = ""
    if clip_ids is not None:
        con.register("wanted", id_table(clip_ids))
        wanted = "semi join wanted using (clip_id)"
    rows = clips_sql(con, clips, ["source_video", "sha256", "split", "error"])
    con.execute(f"create temp table chosen as from {rows} {wanted}")
    con.execute(f"""
        create temp table videos as
        select source_video,
               arg_max(split, list_position(['train', 'val', 'test'], split)) as furthest
        from {rows} where split is not null group by source_video""")


def make_facts(
    con: duckdb.DuckDBPyConnection,
    listings: Mapping[str, CommitListing],
    stages: Mapping[str, Descriptor],
    optional: Sequence[str],
) -> None:
    """Make the table `facts`: one row a clip with its status at every stage and all scalar columns.

    Rows that come twice (from two processes) are looked for only when the join gave more rows than
    there are clips.
    """
    columns = ["c.*"]
    reading: list[tuple[Sequence[str], list[str], str]] = []  # files, columns, the clip's input
    for i, (stage, descriptor) in enumerate(stages.items()):
        types = {f.name: sql_type(f.type) for f in descriptor.columns if not is_array(f)}
        columns += [f"s{i}.{part} as {quote(f'{stage}.{part}')}" for part in ("status", "reason")]
        columns += [f"s{i}.{quote(n)}::{type_} as {quote(n)}" for n, type_ in types.items()]
        optional = [name for name in optional if name not in types]
        names = ["input", "status", "reason", *types]
        reading.append((listings[stage].files, names, present_input(descriptor.reads)))
    columns += [f"null::DOUBLE as {quote(name)}" for name in optional]

    def facts_sql(rows: Sequence[str]) -> str:
        joins = [
            f"left join {row} s{i} on s{i}.input = {reading[i][2]}" for i, row in enumerate(rows)
        ]
        return f"""
        create or replace temp table facts as
        select {", ".join(columns)}
        from (select clip_id, source_video, sha256, split as given, status as clip_status, error
              from chosen) c
        left join present p on c.clip_id = p.clip_id {" ".join(joins)}"""

    con.execute(facts_sql([scan(paths, names) for paths, names, _ in reading]))
    if value(con, "select (select count(*) from facts) > (select count(*) from chosen)"):
        con.execute(
            facts_sql([newest(con, paths, names, STAGE_ORDER) for paths, names, _ in reading])
        )


def members_sql(policy: Policy, stages: Sequence[str]) -> str:
    """SQL of the members: the reason of every drop, splits, subsets.

    A clip is in the split that its source gave it, else in the one drawn for its source video.
    Where that would divide a video it is left out, never moved: what a source gave goes before what
    was drawn, and test before val before train.
    """
    drops = ["when clip_status <> 'passed' then 'clips: ' || error"]
    for stage in stages:
        status, reason = quote(f"{stage}.status"), quote(f"{stage}.reason")
        waiting, why = literal(f"{stage}: waiting"), f"coalesce({reason}, {status})"
        drops.append(f"when coalesce({status}, 'released') = 'released' then {waiting}")
        drops.append(f"when {status} <> 'passed' then {literal(stage + ': ')} || {why}")
    drops += [
        f"when not coalesce({gate.condition.sql()}, false) then {literal(gate.name)}"
        for gate in policy.gates
    ]
    good = " and ".join(f"coalesce({c.sql()}, false)" for c in policy.sft) or "false"
    splits = policy.splits
    draw = _draw("source_video", splits.seed, "split")
    ablation = f"{_draw('clip_id', splits.seed, 'ablation')} < {policy.ablation_share}"
    return f"""
    with drawn as (
        select *, case {" ".join(drops)} end as dropped,
            case when {draw} < {splits.test} then 'test'
                when {draw} < {splits.test + splits.val} then 'val'
                else 'train' end as drawn
        from facts),
    divided as (
        select d.*, coalesce(given, drawn) as divided,
            case when dropped is not null then dropped
                when divided <> v.furthest then {literal(DIVIDED)}
                end as reason
        from drawn d left join videos v using (source_video))
    select clip_id, source_video, case when reason is null then sha256 end as sha256,
           reason is null as kept, reason, if(reason is null, divided, null) as split,
           reason is null and ({good}) as sft,
           reason is null and divided = 'train' and {ablation} as ablation
    from divided order by clip_id"""


def _draw(column: str, seed: int, salt: str) -> str:
    """SQL of a number in [0, 1) that depends on a column's value, the seed and nothing else."""
    return f"(md5_number_lower({literal(f'{salt}:{seed}:')} || {column}) / 18446744073709551616.0)"


def funnel(members: pa.Table, stages: Sequence[str], gates: Sequence[str]) -> list[dict[str, Any]]:
    """Clips dropped by and left after every step; a gate may have a stage's name."""
    counts: dict[str, int] = {}
    for row in members.group_by("reason").aggregate([("clip_id", "count")]).to_pylist():
        if row["reason"] is not None:
            stage, mark, _ = row["reason"].partition(": ")
            counts[stage + mark] = counts.get(stage + mark, 0) + row["clip_id_count"]
    left = members.num_rows
    funnel = [{"step": "all", "dropped": 0, "left": left}]
    last = ["split: "] if "split: " in counts else []
    for step in [*(f"{stage}: " for stage in stages), *gates, *last]:
        left -= counts.get(step, 0)
        funnel.append(
            {"step": step.removesuffix(": "), "dropped": counts.get(step, 0), "left": left}
        )
    return funnel
