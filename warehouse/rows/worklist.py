"""Work to do is a query: clips that passed every upstream, minus clips with a row that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from warehouse.commits import Descriptor
from warehouse.rows.live import Listings, present, present_input, run_checked, scan, sources, value
from warehouse.rows.read import id_table
from warehouse.schema import MAX_ATTEMPTS

if TYPE_CHECKING:
    from warehouse.home import Home


@dataclass(frozen=True)
class WorkList:
    """Clips that a stage has yet to do, and how many others there are.

    `todo` has clip_id, input, generation and attempt, sorted by clip_id. Of `clips` readable clips
    `ready` ones passed every upstream; `quarantined` ones of these failed too often.
    """

    todo: pa.Table
    clips: int
    ready: int
    quarantined: int


def work_list(
    home: Home,
    descriptor: Descriptor,
    clip_ids: Sequence[str] | None = None,
    max_attempts: int = MAX_ATTEMPTS,
) -> WorkList:
    """Clips that passed every upstream and have no passed or rejected row for their input now.

    Args:
        home: where the clips are.
        descriptor: the stage.
        clip_ids: the only clips to look at; None for all.
        max_attempts: failed attempts after which a clip is left alone.
    """
    upstreams = [home.descriptor(*item) for item in descriptor.upstream.items()]

    def work(listings: Listings) -> WorkList:
        files = listings[descriptor.stage].files
        with home.cursor() as con:
            con.register("present", present(home, listings["clips"], descriptor.reads))
            clips = "present p"
            if clip_ids is not None:
                con.register("wanted", id_table(clip_ids))
                clips += " semi join wanted w on p.clip_id = w.clip_id"
            con.execute(
                f"create temp table ready as {_ready_sql(clips, listings, descriptor, upstreams)}"
            )
            con.execute(f"""
                create temp table unfinished as
                from ready anti join (
                    select input from {scan(files, ["input", "status"])}
                    where status in ('passed', 'rejected')
                ) using (input)""")
            counts = [
                value(con, f"select count(*) from {table}")
                for table in (clips, "ready", "unfinished")
            ]
            todo = con.sql(_todo_sql(files, max_attempts)).to_arrow_table()
        return WorkList(todo, counts[0], counts[1], counts[2] - todo.num_rows)

    return run_checked(home, sources(*upstreams, descriptor), work)


def _ready_sql(
    clips: str, listings: Listings, descriptor: Descriptor, upstreams: Sequence[Descriptor]
) -> str:
    """SQL of the clips that passed every upstream, with their input for this stage."""
    joins = [
        f"""
        semi join (
            select input from {scan(listings[upstream.stage].files, ["input", "status"])}
            where status = 'passed'
        ) u{i} on u{i}.input = {present_input(upstream.reads)}"""
        for i, upstream in enumerate(upstreams)
    ]
    own = present_input(descriptor.reads)
    return f"select p.clip_id, {own} as input from {clips} {' '.join(joins)}"


def _todo_sql(files: Sequence[str], max_attempts: int) -> str:
    """SQL of the unfinished clips that are tried again, with the numbers of their next row."""
    return f"""
        with tries as (
            select input, max(generation) as generation,
                   arg_max(attempt, generation * 1000 - attempt) as attempt
            from {scan(files, ["input", "status", "generation", "attempt"])}
            where status in ('failed', 'released') group by input
        )
        select clip_id, input, coalesce(t.generation + 1, 0)::INTEGER as generation,
               coalesce(t.attempt + 1, 1)::INTEGER as attempt
        from unfinished left join tries t using (input)
        where coalesce(t.attempt, 0) < {int(max_attempts)} order by clip_id"""
