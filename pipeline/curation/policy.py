"""Policies: which clips are kept, as gates on the facts that stages measured, applied by SQL."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from model.presets.preset import stages_beside
from pipeline.curation.gates import Condition, Gate
from warehouse.commits import CommitListing, Descriptor
from warehouse.datasets.versions import CURATED, Dataset, Selected, write_dataset
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
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Policy:
    """Gates in order, subsets and splits; the shares are of clips.

    `stages` are scores of one's own, each as package.module:Class; `optional` columns count as
    unknown when no stage gives them. `sft` are the conditions of the high-quality subset; without
    any, it is empty.
    """

    name: str
    version: int
    gates: tuple[Gate, ...]
    description: str = ""
    stages: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    sft: tuple[Condition, ...] = ()
    ablation_share: Share = 0.3
    val: Share = 0.02
    test: Share = 0.02
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_clips_to_train_on(self) -> Policy:
        if self.val + self.test >= 1:
            raise ValueError("the shares of val and test add up to less than 1")
        return self

    def check_columns(self, types: Mapping[str, pa.DataType], where: str) -> None:
        """Raise FoleyError where a condition is on a column not in `types`, or of another type."""
        columns = {name: pa.float64() for name in self.optional} | dict(types)
        for place, conditions in [
            *((f"gate {g.name}", g.keep) for g in self.gates),
            ("sft", self.sft),
        ]:
            for problem in (c.problem(columns) for c in conditions):
                if problem:
                    raise FoleyError(f"policy {where}: {place}: {problem}")


def policies() -> list[str]:
    """Names of the policies that are shipped."""
    names = (Path(entry.name) for entry in POLICIES.iterdir())
    return sorted(name.stem for name in names if name.suffix == ".toml")


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by name, or one from a TOML file.

    Raises FoleyError when it is absent or not a policy.
    """
    if not name_or_path.endswith(".toml") and name_or_path not in policies():
        raise FoleyError(
            f"no policy {name_or_path!r}: use {', '.join(policies())} or the path of a .toml file"
        )
    try:
        if name_or_path.endswith(".toml"):
            text = Path(name_or_path).read_text()
        else:
            text = (POLICIES / f"{name_or_path}.toml").read_text()
        raw = tomllib.loads(text)
    except OSError as exc:
        raise FoleyError(f"cannot read policy {name_or_path}: {exc.strerror}") from None
    except ValueError as exc:
        raise FoleyError(f"policy {name_or_path} is not valid: {exc}") from None
    sections = {name: raw.pop(name, {}) for name in ("subsets", "splits")}
    raw["gates"] = raw.pop("gate", [])
    if "stages" in raw and name_or_path.endswith(".toml"):
        raw["stages"] = stages_beside(raw["stages"], Path(name_or_path).parent)
    for name, section in sections.items():
        if not isinstance(section, dict) or section.keys() & raw.keys():
            raise FoleyError(f"policy {name_or_path} is not valid: [{name}] repeats other keys")
        raw |= section
    return parse_policy(raw, name_or_path)


def parse_policy(raw: Mapping[str, Any], where: str) -> Policy:
    """A policy from plain values, as a dataset's record holds them; `where` is for errors.

    Raises FoleyError, which names the gate.
    """
    try:
        return TypeAdapter(Policy).validate_python(dict(raw))
    except ValidationError as exc:
        first = exc.errors()[0]
    place: list[Any] = list(first["loc"])
    if place[:1] == ["gates"] and len(place) > 1:
        gate: Any = raw["gates"][place[1]]
        name = gate.get("name") if isinstance(gate, dict) else None
        place[:2] = [f"gate {name or place[1] + 1}"]
    unknown = first["type"] == "unexpected_keyword_argument"
    problem = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
    raise FoleyError(f"policy {where} is not valid: {': '.join([*map(str, place), problem])}")


def select(
    wh: Warehouse,
    fingerprints: Mapping[str, str],
    policy: str | Policy,
    name: str | None = None,
    clip_ids: Sequence[str] | None = None,
    role: str = CURATED,
) -> Dataset:
    """Apply a policy to the facts of the stages in `fingerprints`, and write a dataset version.

    A clip is dropped by the first stage that did not pass it, else by the first gate that is not
    true for it. The same facts under the same policy give the same version again. Raises FoleyError
    for a gate on an unknown column.
    """
    chosen = load_policy(policy) if isinstance(policy, str) else policy
    stages = {stage: wh.descriptor(stage, fp) for stage, fp in fingerprints.items()}
    scalars = [c for stage in stages.values() for c in stage.columns if not is_array(c)]
    sources = {"clips": ("clips", "source"), **{s: (s, fp) for s, fp in fingerprints.items()}}

    def work(listings: dict[str, CommitListing]) -> pa.Table:
        con = wh.cursor()
        try:
            reads = {name for stage in stages.values() for name in stage.reads}
            con.register("present", present(wh, listings["clips"], reads))
            _make_chosen(con, listings["clips"], clip_ids)
            _make_facts(con, listings, stages, chosen.optional)
            return con.sql(_members_sql(chosen, list(stages))).to_arrow_table()
        finally:
            con.execute("drop table if exists facts; drop table if exists chosen")
            con.close()

    where = policy if isinstance(policy, str) else policy.name
    chosen.check_columns({column.name: column.type for column in scalars}, where)
    try:
        members = run_checked(wh, sources, work)
    except FoleyError as exc:
        raise FoleyError(f"policy {where}: {exc}") from exc
    record = TypeAdapter(Policy).dump_python(
        chosen, mode="json", exclude_none=True, exclude={"stages"}
    )
    funnel = _funnel(members, ["clips", *stages], [gate.name for gate in chosen.gates])
    selected = Selected(name or chosen.name, record, fingerprints, funnel, role)
    return write_dataset(wh, members, selected)


def _make_chosen(
    con: duckdb.DuckDBPyConnection, clips: CommitListing, clip_ids: Sequence[str] | None
) -> None:
    """Make the table `chosen`: the clips that the dataset is about."""
    wanted = ""
    if clip_ids is not None:
        con.register("wanted", pa.table({"clip_id": pa.array(list(clip_ids), pa.string())}))
        wanted = "semi join wanted using (clip_id)"
    rows = clips_sql(con, clips, ["source_video", "sha256", "split", "error"])
    con.execute(f"create temp table chosen as from {rows} {wanted}")


def _make_facts(
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


def _members_sql(policy: Policy, stages: Sequence[str]) -> str:
    """SQL of the members: the reason of every drop, split by source video, subsets."""
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
    draw = _draw("source_video", policy.seed, "split")
    ablation = f"{_draw('clip_id', policy.seed, 'ablation')} < {policy.ablation_share}"
    return f"""
    with reasons as (select *, case {" ".join(drops)} end as reason from facts),
    groups as (
        select source_video,
               max(case given when 'test' then 3 when 'val' then 2 else 1 end) as rank
        from facts where given is not null group by source_video),
    divided as (
        select r.*, case
            when reason is not null then null
            when g.rank is not null then ['train', 'val', 'test'][g.rank]
            when {draw} < {policy.test} then 'test'
            when {draw} < {policy.test + policy.val} then 'val'
            else 'train' end as divided
        from reasons r left join groups g using (source_video))
    select clip_id, source_video, case when reason is null then sha256 end as sha256,
           reason is null as kept, reason, divided as split,
           reason is null and ({good}) as sft,
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
