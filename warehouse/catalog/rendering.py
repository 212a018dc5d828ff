"""Rows as text (a table to read, CSV or JSON) or as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from warehouse.errors import FoleyError

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json"]
_WIDEST = 60


def render(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], format: Format) -> str:
    """Rows in one of the formats, without a line end at the end."""
    if format == "json":
        return json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False, default=_plain)
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)
        return text.getvalue().rstrip("\n")
    return _table(columns, rows)


def write(rows: pa.Table, path: Path) -> None:
    """Write rows as the file that the name's ending asks for.

    Raises FoleyError for another ending or a bad place.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("csv", "json", "parquet"):
        raise FoleyError(f"cannot write {path}: its name must end in .csv, .json or .parquet")
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(rows, path)
        else:
            # pyright: ignore[reportArgumentType]
            path.write_text(render(rows.column_names, rows.to_pylist(), kind) + "\n")
    except OSError as exc:
        raise FoleyError(f"cannot write {path}: {exc.strerror or exc}") from None


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns side by side, numbers to the right; long values are cut."""
    cells = [[_short(row[name]) for name in columns] for row in rows]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    right = [all(_is_number(row[name]) for row in rows) and bool(rows) for name in columns]

    def line(values: Sequence[str]) -> str:
        parts = zip(values, widths, right, strict=True)
        return "  ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(columns), rule, *map(line, cells)])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else _cell(value)
    text = "".join(
        c if c.isprintable() else " " for c in text
    )  # a value must not move the cursor of a terminal
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return str(_plain(value)) if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
