"""`select`: a named, versioned policy over the facts that stages found, by SQL.

Thresholds never touch the facts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from warehouse.commits import Descriptor, Listing
from warehouse.datasets.versions import Dataset, write_dataset
from warehouse.errors import FoleyError
from warehouse.rows.live import (
    STAGE_ORDER,
    clips_sql,
    literal,
    newest,
    present,
    present_input,
    quote,
    run_checked,
    scan,
    sql_type,
    value,
)
from warehouse.schema import is_array
from warehouse.store import Warehouse

if TYPE_CHECKING:
    import duckdb

POLICIES = files("pipeline.curation") / "policies"


@dataclass(frozen=True)
class Gate:
    """A condition on the facts, as SQL.

    A clip for which it is not true (false or unknown) is dropped by this name.
    """

    name: str
    keep: str
    source: str = ""


@dataclass(frozen=True)
class Policy:
    """Gates in order, subsets and splits.

    `optional` facts count as unknown when no stage gives them.
    """

    name: str
    version: int
    gates: tuple[Gate, ...]
    description: str = ""
    optional: tuple[str, ...] = ()
    sft: str = "false"
    ablation_share: float = 0.3
    val: float = 0.02
    test: float = 0.02
    seed: int = 0


def policies() -> list[str]:
    """Names of the policies that come with the house."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in POLICIES.iterdir()
        if entry.name.endswith(".toml")
    )


def load_policy(name_or_path: str) -> Policy:
    """A policy by name, or from a TOML file.

    Raises FoleyError when it is absent or not a policy.
    """
    if name_or_path.endswith(".toml"):
        path, text = name_or_path, _read(Path(name_or_path))
    elif name_or_path in policies():
        path, text = name_or_path, (POLICIES / f"{name_or_path}.toml").read_text()
    else:
        raise FoleyError(
            f"no policy {name_or_path!r}: use {', '.join(policies())} or the path of a .toml file"
        )
    try:
        return _parse(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as exc:
        raise FoleyError(f"policy {path} is not valid: {type(exc).__name__} {exc}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as exc:
        raise FoleyError(f"cannot read policy {path}: {exc.strerror}") from None


def _parse(raw: dict[str, Any]) -> Policy:
    policy = Policy(
        name=raw.pop("name"),
        version=int(raw.pop("version")),
        gates=tuple(Gate(**gate) for gate in raw.pop("gate", [])),
        description=raw.pop("description", ""),
        optional=tuple(raw.pop("optional", ())),
        **raw.pop("subsets", {}),
        **raw.pop("splits", {}),
    )
    if raw:
        raise ValueError(f"unknown keys {sorted(raw)}")
    if not 0 <= policy.val + policy.test < 1 or not 0 <= policy.ablation_share <= 1:
        raise ValueError(
            "shares of val and test add up to less than 1, that of the ablation subset to at most 1"
        )
    return policy


def select(
    wh: Warehouse,
    fps: Mapping[str, str],
    policy: str | Policy,
    name: str | None = None,
    clip_ids: Sequence[str] | None = None,
) -> Dataset:
    """Apply a policy to what the stages in `fps` found and write the dataset version that results.

    A clip is dropped by the first stage that did not pass it, else by the first gate that is not
    true for it. The same facts under the same policy give the same version again. Raises FoleyError
    for a gate on an unknown column.
    """
    chosen = load_policy(policy) if isinstance(policy, str) else policy
    descriptors = {stage: wh.descriptor(stage, fp) for stage, fp in fps.items()}

    def work(listings: dict[str, Listing]) -> pa.Table:
        con = wh.cursor()
        try:
            con.register(
                "present",
                present(
                    wh, listings["clips"], {name for d in descriptors.values() for name in d.reads}
                ),
            )
            wanted = ""
            if clip_ids is not None:
                con.register("wanted", pa.table({"clip_id": pa.array(list(clip_ids), pa.string())}))
                wanted = "semi join wanted using (clip_id)"
            _fill_facts(con, listings, descriptors, chosen, wanted)
            return con.sql(_members_sql(chosen, list(fps))).to_arrow_table()
        finally:
            con.execute("drop table if exists facts; drop table if exists chosen")
            con.close()

    try:
        members = run_checked(
            wh, {"clips": ("clips", "source"), **{s: (s, fp) for s, fp in fps.items()}}, work
        )
    except FoleyError as exc:
        raise FoleyError(f"policy {chosen.name}: {_without_column(exc) or exc}") from exc
    gates = [gate.name for gate in chosen.gates]
    funnel = _funnel(members, ["clips", *fps], gates)
    return write_dataset(wh, name or chosen.name, members, asdict(chosen), fps, funnel)


def _without_column(error: FoleyError) -> str | None:
    """One line if a gate asks for a column that no stage of this preset gives."""
    found = re.search(r'Referenced column "(\w+)" not found', str(error.__cause__))
    if found is None:
        return None
    return (
        f"no stage gives the column {found[1]}: configure the stage that does (docs/scores.md), or name the column "
        "under `optional`, which makes it unknown"
    )


def _fill_facts(
    con: duckdb.DuckDBPyConnection,
    listings: Mapping[str, Listing],
    descriptors: Mapping[str, Descriptor],
    policy: Policy,
    wanted: str,
) -> None:
    """Make the table `facts`: one row a clip with its status at every stage and all scalar columns.

    Rows that come twice (from two processes) are looked for only when the join gave more rows than
    there are clips.
    """
    clips = clips_sql(con, listings["clips"], ["source_video", "sha256", "split", "error"])
    con.execute(f"create temp table chosen as from {clips} {wanted}")
    con.execute(
        f"create temp table facts as {_facts_sql(con, listings, descriptors, policy, twice=False)}"
    )
    if value(con, "select (select count(*) from facts) > (select count(*) from chosen)"):
        con.execute(
            f"create or replace temp table facts as {_facts_sql(con, listings, descriptors, policy, twice=True)}"
        )


def _facts_sql(
    con: duckdb.DuckDBPyConnection,
    listings: Mapping[str, Listing],
    descriptors: Mapping[str, Descriptor],
    policy: Policy,
    twice: bool,
) -> str:
    columns = [
        "c.clip_id",
        "c.source_video",
        "c.sha256",
        "c.split as given",
        "c.status as clip_status",
        "c.error",
    ]
    joins = ["left join present p on c.clip_id = p.clip_id"]
    seen: set[str] = set()
    for i, (stage, descriptor) in enumerate(descriptors.items()):
        own = [f.name for f in descriptor.columns if not is_array(f)]
        names = ["input", "status", "reason", *own]
        files = listings[stage].files
        rows = newest(con, files, names, STAGE_ORDER) if twice else scan(files, names)
        joins.append(f"left join {rows} s{i} on s{i}.input = {present_input(descriptor.reads)}")
        columns += [f"s{i}.{part} as {quote(f'{stage}.{part}')}" for part in ("status", "reason")]
        types = {f.name: sql_type(f.type) for f in descriptor.columns if not is_array(f)}
        columns += [
            f"s{i}.{quote(name)}::{type_} as {quote(name)}" for name, type_ in types.items()
        ]
        seen |= set(own)
    columns += [f"null::DOUBLE as {quote(name)}" for name in policy.optional if name not in seen]
    return f"select {', '.join(columns)} from chosen c {' '.join(joins)}"


def _members_sql(policy: Policy, stages: Sequence[str]) -> str:
    """SQL of the members: the reason of every drop, split by source video, subsets."""
    drops = ["when clip_status <> 'passed' then 'clips: ' || error"]
    for stage in stages:
        status, reason = quote(f"{stage}.status"), quote(f"{stage}.reason")
        waiting, why = literal(f"{stage}: waiting"), f"coalesce({reason}, {status})"
        drops.append(f"when coalesce({status}, 'released') = 'released' then {waiting}")
        drops.append(f"when {status} <> 'passed' then {literal(stage + ': ')} || {why}")
    drops += [
        f"when not coalesce(({gate.keep}), false) then {literal(gate.name)}"
        for gate in policy.gates
    ]
    draw = _draw("source_video", policy.seed, "split")
    hashed = f"case when {draw} < {policy.test} then 'test' when {draw} < {policy.test + policy.val} then 'val'"
    given = "case g.rank when 3 then 'test' when 2 then 'val' when 1 then 'train'"
    ablation = f"{_draw('clip_id', policy.seed, 'ablation')} < {policy.ablation_share}"
    return f"""
    with judged as (select *, case {" ".join(drops)} end as reason, ({policy.sft}) as good from facts),
    groups as (select source_video, max(case given when 'test' then 3 when 'val' then 2 else 1 end) as rank
               from facts where given is not null group by source_video),
    divided as (select j.*, case when reason is null then {given} else {hashed} else 'train' end end end as divided
                from judged j left join groups g using (source_video))
    select clip_id, source_video, case when reason is null then sha256 end as sha256, reason is null as kept, reason,
           divided as split, reason is null and coalesce(good, false) as sft,
           case when divided = 'train' then {ablation} else false end as ablation
    from divided order by clip_id"""


def _draw(column: str, seed: int, salt: str) -> str:
    """SQL of a number in [0, 1) that depends on a column's value, the seed and nothing else."""
    return f"(md5_number_lower({literal(f'{salt}:{seed}:')} || {column}) / 18446744073709551616.0)"


def _funnel(members: pa.Table, stages: Sequence[str], gates: Sequence[str]) -> list[dict[str, Any]]:
    """Clips dropped by and left after every step.

    A gate may have the name of a stage, and counts its own.
    """
    counts: dict[str, int] = {}
    for row in members.group_by("reason").aggregate([("clip_id", "count")]).to_pylist():
        if row["reason"] is not None:
            stage, mark, _ = row["reason"].partition(": ")
            counts[stage + mark] = counts.get(stage + mark, 0) + row["clip_id_count"]
    left = members.num_rows
    funnel = [{"step": "all", "dropped": 0, "left": left}]
    for step in [*(f"{stage}: " for stage in stages), *gates]:
        left -= counts.get(step, 0)
        funnel.append(
            {"step": step.removesuffix(": "), "dropped": counts.get(step, 0), "left": left}
        )
    return funnel
