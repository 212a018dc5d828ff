"""Rows as text (a table to read, CSV or JSON) or as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from warehouse.errors import FoleyError

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json"]
_WIDEST = 60


def render(
    rows: Sequence[Mapping[str, object]],
    format: Format = "table",
    columns: Sequence[str] | None = None,
) -> str:
    """Rows in one of the formats, without a line end at the end; nothing for no rows or columns.

    `columns` are those to show, by default all of the first row.
    """
    columns = columns if columns is not None else list(rows[0]) if rows else []
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
    kind: object = path.suffix.removeprefix(".")
    if kind not in ("csv", "json", "parquet"):
        raise FoleyError(f"cannot write {path}: its name must end in .csv, .json or .parquet")
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(rows, path)
        else:
            path.write_text(render(rows.to_pylist(), kind, rows.column_names) + "\n")
    except OSError as exc:
        raise FoleyError(f"cannot write {path}: {exc.strerror or exc}") from None


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Columns side by side, numbers to the right; long values are cut."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    for name in columns:
        number = bool(rows) and all(_is_number(row[name]) for row in rows)
        table.add_column(
            name,
            justify="right" if number else "left",
            max_width=_WIDEST,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(_short(row[name]) for name in columns))
    # Wider than any table: a reader of a file or a pipe gets all columns, a terminal wraps lines.
    width = (_WIDEST + 2) * max(1, len(columns))
    console = Console(width=width, markup=False, emoji=False, color_system=None)
    with console.capture() as text:
        console.print(table, highlight=False)
    return "\n".join(line.rstrip() for line in text.get().splitlines())


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else _cell(value)
    # A value must not move the cursor of a terminal.
    return "".join(c if c.isprintable() else " " for c in text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return str(_plain(value)) if isinstance(value, bytes) else str(value)


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
