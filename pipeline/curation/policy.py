"""Policies: which clips are kept, as gates on the facts that stages measured, applied by SQL."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from model.presets.preset import stages_beside
from pipeline.curation.gates import Policy
from pipeline.curation.members import funnel, make_chosen, make_facts, members_sql
from warehouse.commits import CommitListing, Descriptor
from warehouse.datasets.corpus import CorpusSettings, settle
from warehouse.datasets.versions import CURATED, UNCURATED, Dataset, Selected, write_dataset
from warehouse.errors import FoleyError
from warehouse.files import Json
from warehouse.rows.live import present, run_checked
from warehouse.schema import is_array
from warehouse.store import Warehouse

POLICIES = files("pipeline.curation") / "policies"


def policies() -> list[str]:
    """Names of the policies that are shipped."""
    names = (Path(entry.name) for entry in POLICIES.iterdir())
    return sorted(name.stem for name in names if name.suffix == ".toml")


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by name, or one from a TOML file; raises FoleyError where it is none."""
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


def parse_policy(raw: Json, where: str) -> Policy:
    """A policy from plain values; raises FoleyError, which names `where` it is and the gate."""
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
) -> Dataset:
    """Apply a policy to the facts of the stages in `fingerprints`, and write a dataset version.

    A clip is dropped by the first stage that did not pass it, else by the first gate that is not
    true for it. Splits are those of the warehouse, which it has from its first selection. The same
    facts under the same policy give the same version again. Raises FoleyError for a gate on an
    unknown column.
    """
    where = policy if isinstance(policy, str) else policy.name
    chosen = load_policy(policy) if isinstance(policy, str) else policy
    judged = _Judged(wh, fingerprints, chosen, where)
    judged.check_columns()
    name = name or chosen.name
    settings = settle(wh, CorpusSettings(name, where, splits=chosen.splits))
    chosen = replace(chosen, **asdict(settings.splits))
    return replace(judged, policy=chosen).write(name, clip_ids, CURATED)


def select_uncurated(
    wh: Warehouse,
    fingerprints: Mapping[str, str],
    policy: Policy,
    name: str,
    clip_ids: Sequence[str],
) -> Dataset:
    """As `select`, for a set that an ablation compares with: in the splits of its own policy."""
    judged = _Judged(wh, fingerprints, policy, policy.name)
    judged.check_columns()
    return judged.write(name, clip_ids, UNCURATED)


@dataclass(frozen=True)
class _Judged:
    """The facts of stages, judged by a policy, which `where` names in errors."""

    wh: Warehouse
    fingerprints: Mapping[str, str]
    policy: Policy
    where: str

    @cached_property
    def stages(self) -> dict[str, Descriptor]:
        return {stage: self.wh.descriptor(stage, fp) for stage, fp in self.fingerprints.items()}

    def check_columns(self) -> None:
        scalars = [c for stage in self.stages.values() for c in stage.columns if not is_array(c)]
        self.policy.check_columns({column.name: column.type for column in scalars}, self.where)

    def members(self, clip_ids: Sequence[str] | None) -> pa.Table:
        """Rows of MEMBERS, of all clips or of some."""
        found = {stage: (stage, fp) for stage, fp in self.fingerprints.items()}

        def work(listings: dict[str, CommitListing]) -> pa.Table:
            con = self.wh.cursor()
            try:
                reads = {name for stage in self.stages.values() for name in stage.reads}
                con.register("present", present(self.wh, listings["clips"], reads))
                make_chosen(con, listings["clips"], clip_ids)
                make_facts(con, listings, self.stages, self.policy.optional)
                return con.sql(members_sql(self.policy, list(self.stages))).to_arrow_table()
            finally:
                for table in ("facts", "chosen", "videos"):
                    con.execute(f"drop table if exists {table}")
                con.close()

        try:
            return run_checked(self.wh, {"clips": ("clips", "source"), **found}, work)
        except FoleyError as exc:
            raise FoleyError(f"policy {self.where}: {exc}") from exc

    def write(self, name: str, clip_ids: Sequence[str] | None, role: str) -> Dataset:
        members = self.members(clip_ids)
        record = TypeAdapter(Policy).dump_python(
            self.policy, mode="json", exclude_none=True, exclude={"stages"}
        )
        gates = [gate.name for gate in self.policy.gates]
        steps = funnel(members, ["clips", *self.stages], gates)
        return write_dataset(
            self.wh, members, Selected(name, record, self.fingerprints, steps, role)
        )
