"""Figures as text.

Every number of the report goes through here, and carries its exact value beside the rounded one.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from markupsafe import Markup

ABSENT = Markup('<span class="absent" title="not measured">&ndash;</span>')

_STYLES = {
    "auc": "{:.3f}",
    "count": "{:,.0f}",
    "f1": "{:.2f}",
    "loss": "{:.4f}",
    "ms": "{:.0f} ms",
    "percent": "{:.0%}",
    "share": "{:.1%}",
    "seconds": "{:,.1f} s",
    "p": "{:.4f}",
    "plain": "{}",
}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object) -> float:
    """A figure as a number to draw with; 0 where it is missing."""
    return float(value) if is_number(value) else 0.0


def metric_text(value: float) -> str:
    """A figure of an evaluation: three decimals, fewer where it is large."""
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def figure(value: Any, style: str = "plain") -> Markup:
    """A number as `<data value="exact">rounded</data>`; a dash where there is none."""
    if not is_number(value):
        return ABSENT
    text = metric_text(value) if style == "metric" else _STYLES[style].format(value)
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def get(results: Mapping[str, object], *path: str) -> Any:
    """The value at a path of keys, None where any of them is missing."""
    value: object = results
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def flat(value: object, prefix: str = "") -> list[tuple[str, object]]:
    """The leaves of nested mappings and lists as (dotted name, value)."""
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return [(prefix, value)]
    return [leaf for key, v in items for leaf in flat(v, f"{prefix}.{key}" if prefix else key)]
