"""CSV as spreadsheets and pandas write it: any separator of theirs, a byte order mark, an index."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.media import printable
from warehouse.errors import FoleyError

Columns = Mapping[str, tuple[str, ...]]  # names of ours, each with what it may be called
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # what Excel calls "Unicode text"


@dataclass(frozen=True)
class Table:
    """Lines of a table."""

    # (number of the line, cells by the names of our columns; "" where there is nothing)
    rows: tuple[tuple[int, dict[str, str]], ...]
    columns: frozenset[str]  # ours that the first line names
    ignored: tuple[str, ...]  # columns that mean nothing here


def read_table(path: Path, columns: Columns, needed: Iterable[str] = ()) -> Table:
    """A CSV with commas, semicolons or tabs; capitals and spaces in the first line do not matter.

    Raises FoleyError, with the number of the line, where the file is not there or no CSV, where a
    needed column is missing, and where a line has more cells than the first.
    """
    try:
        return _read(path, columns, frozenset(needed))
    except FileNotFoundError:
        raise FoleyError(f"no such file: {printable(path)}") from None
    except UnicodeError as error:
        advice = "save it as CSV UTF-8"
        raise FoleyError(f"{printable(path)}: cannot be read as CSV: {error}: {advice}") from None
    except (OSError, csv.Error) as error:
        raise FoleyError(f"{printable(path)}: cannot be read as CSV: {error}") from None


def _read(path: Path, columns: Columns, needed: frozenset[str]) -> Table:
    data = path.read_bytes()
    text = data.decode(_MARKS.get(data[:2], "utf-8-sig"))
    ours = {alias: name for name, aliases in columns.items() for alias in (name, *aliases)}
    lines, names, known = max(
        (_lines(text, separator, ours) for separator in ",;\t"), key=lambda found: len(found[2])
    )
    if not needed <= set(known.values()):
        asked = ", ".join((*sorted(needed), *(name for name in columns if name not in needed)))
        raise FoleyError(
            f"{printable(path)}: its first line must name the columns ({asked}; needed is "
            f"{', '.join(sorted(needed))}); it has {', '.join(filter(None, names)) or 'none'}"
        )
    twice = [name for i, name in enumerate(names) if i in known and name in names[:i]]
    if twice:
        raise FoleyError(f"{printable(path)}: two columns are named {twice[0]}: leave one")
    rows: list[tuple[int, dict[str, str]]] = []
    for number, cells in lines:
        if any(cells[len(names) :]):
            raise FoleyError(
                f"{printable(path)}, line {number}: has more cells than the first line: "
                "quote a text that holds a separator"
            )
        if any(cells):
            filled = dict.fromkeys(known.values(), "")
            pairs = [(known[i], cell) for i, cell in enumerate(cells) if i in known]
            rows.append((number, filled | {name: cell for name, cell in reversed(pairs) if cell}))
    ignored = tuple(name for i, name in enumerate(names) if i not in known and name)
    return Table(tuple(rows), frozenset(known.values()), ignored)


def _lines(
    text: str, separator: str, ours: Mapping[str, str]
) -> tuple[Iterator[tuple[int, list[str]]], list[str], dict[int, str]]:
    """Lines after the first with their numbers, names in the first, and places of our columns."""
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
    numbered = _numbered(reader)
    first = next(numbered, (0, []))[1]
    if first and first[0].lower().startswith("sep="):  # Excel's own word on its separator
        first = next(numbered, (0, []))[1]
    plain = [name.lower().replace(" ", "_") for name in first]
    return numbered, first, {i: ours[name] for i, name in enumerate(plain) if name in ours}


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Lines with the number of each; a cell may hold several."""
    start = 1
    for cells in reader:
        yield start, [cell.strip() for cell in cells]
        start = reader.line_num + 1
