"""Policies and their gates as data: columns compared with values, joined by `all` and `any`.

They hold no SQL of their own: names are quoted and values written as literals when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from warehouse.datasets.corpus import Splits
from warehouse.errors import FoleyError
from warehouse.rows.live import literal, quote

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = Annotated[bool, Field(strict=True)] | Number | Annotated[str, Field(strict=True)]

#: How a comparison is written in SQL, and how it is printed.
SIGNS = {
    "above": (">", ">"),
    "at_least": (">=", "≥"),
    "below": ("<", "<"),
    "at_most": ("<=", "≤"),
    "equals": ("=", "="),
    "not_equals": ("<>", "≠"),
}
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Condition:
    """A column compared with one value or more, or several conditions: `any` of them, or `all`.

    A comparison with an unknown (null) value is unknown, as in SQL.
    """

    column: str | None = None
    above: Number | None = None
    at_least: Number | None = None
    below: Number | None = None
    at_most: Number | None = None
    equals: Value | None = None
    not_equals: Value | None = None
    any: tuple[Condition, ...] | None = Field(default=None, min_length=1)
    all: tuple[Condition, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Condition:
        if [self.column, self.any, self.all].count(None) != 2:
            raise ValueError("a condition has a `column`, or `any`, or `all`")
        if bool(self.comparisons) != (self.column is not None):
            raise ValueError(f"a column is compared by one or more of {', '.join(SIGNS)}")
        return self

    @property
    def comparisons(self) -> dict[str, float | str]:
        """Values by the key of their comparison; all of them must hold."""
        values = {key: getattr(self, key) for key in SIGNS}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def parts(self) -> tuple[Condition, ...]:
        """The conditions that this one is made of."""
        return self.any or self.all or ()

    def leaves(self) -> Iterator[Condition]:
        """All conditions on a column in it."""
        if self.column is not None:
            yield self
        for part in self.parts:
            yield from part.leaves()

    def replaced(self, old: Condition, new: Condition) -> Condition:
        """The same with `new` in the place of the part `old`."""
        if self is old:
            return new
        parts = tuple(part.replaced(old, new) for part in self.parts)
        if self.any:
            return replace(self, any=parts)
        return replace(self, all=parts) if self.all else self

    def problem(self, columns: Mapping[str, pa.DataType]) -> str:
        """Why it cannot be asked of these columns; empty where it can."""
        for leaf in self.leaves():
            column = str(leaf.column)
            if column not in columns:
                return (
                    f"no stage gives the column {column}: configure the stage that does (docs/"
                    "curation.md), or name the column under `optional`, which makes it unknown"
                )
            holds = _kind(columns[column])
            for value in leaf.comparisons.values():
                if (compared := _kind(pa.scalar(value).type)) != holds:
                    return f"the column {column} holds {holds}, and is compared with {compared}"
        return ""

    def sql(self) -> str:
        """The condition as SQL."""
        return self.text(
            lambda column, key, value: f"{quote(column)} {SIGNS[key][0]} {_sql(value)}"
        )

    def __str__(self) -> str:
        """The condition as a person reads it."""
        return self.text(lambda column, key, value: f"{column} {SIGNS[key][1]} {_shown(value)}")

    def text(self, compare: Callable[[str, str, float | str], str]) -> str:
        """The condition with its comparisons (column, key, value) written by `compare`."""
        if self.column is not None:
            return " and ".join(compare(self.column, k, v) for k, v in self.comparisons.items())
        texts = [
            f"({part.text(compare)})"
            if part.parts or len(part.comparisons) > 1
            else part.text(compare)
            for part in self.parts
        ]
        return (" or " if self.any else " and ").join(texts)


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "numbers"
    if pa.types.is_boolean(type_):
        return "true or false"
    return "text" if pa.types.is_string(type_) else str(type_)


def _sql(value: float | str) -> str:
    return literal(value) if isinstance(value, str) else repr(value).lower()


def _shown(value: float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"“{value}”" if isinstance(value, str) else repr(value).removesuffix(".0")


@dataclass(frozen=True, config=_STRICT)
class Gate:
    """Conditions that a clip must meet: where one is false or unknown, this gate drops the clip."""

    name: str
    keep: tuple[Condition, ...] = Field(min_length=1)
    source: str = ""

    @property
    def condition(self) -> Condition:
        """All of `keep` as one condition."""
        return self.keep[0] if len(self.keep) == 1 else Condition(all=self.keep)


@dataclass(frozen=True)
class Threshold:
    """One comparison of a gate with a number that can be moved."""

    gate: Gate
    condition: Condition
    comparison: str

    @property
    def column(self) -> str:
        """The fact that is compared."""
        return str(self.condition.column)

    @property
    def sign(self) -> str:
        """The comparison as it is printed."""
        return SIGNS[self.comparison][1]

    @property
    def bound(self) -> float:
        """The number."""
        return float(getattr(self.condition, self.comparison))

    def moved(self, bound: float) -> Gate:
        """The gate with another number here."""
        condition = replace(self.condition, **{self.comparison: bound})
        keep = tuple(part.replaced(self.condition, condition) for part in self.gate.keep)
        return replace(self.gate, keep=keep)


def thresholds(gates: Sequence[Gate]) -> list[Threshold]:
    """Every upper or lower bound of a column in the gates, in order."""
    bounds = ("above", "at_least", "below", "at_most")
    return [
        Threshold(gate, leaf, key)
        for gate in gates
        for leaf in gate.condition.leaves()
        for key in leaf.comparisons
        if key in bounds
    ]


@dataclass(frozen=True, config=_STRICT)
class Policy:
    """Gates in order, and subsets."""

    name: str
    version: int
    gates: tuple[Gate, ...]
    description: str = ""
    stages: tuple[str, ...] = ()  # scores of one's own, each as package.module:Class
    optional: tuple[str, ...] = ()  # columns that count as unknown when no stage gives them
    sft: tuple[Condition, ...] = ()  # of the high-quality subset; without any, it is empty
    ablation_share: Share = 0.3
    # splits of a new warehouse (shares of source videos): one that has its own keeps them
    val: Share | None = None
    test: Share | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _leaves_clips_to_train_on(self) -> Policy:
        if self.splits.val + self.splits.test >= 1:
            raise ValueError("the shares of val and test add up to less than 1")
        return self

    @property
    def gives_splits(self) -> bool:
        """Whether it gives a share or a seed."""
        return (self.val, self.test, self.seed) != (None, None, None)

    @property
    def splits(self) -> Splits:
        """Shares and seed, the usual ones where the policy gives none."""
        given = {name: getattr(self, name) for name in ("val", "test", "seed")}
        return Splits(**{name: value for name, value in given.items() if value is not None})

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
