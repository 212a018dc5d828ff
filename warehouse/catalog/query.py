"""Read-only queries on the published catalog, and on the arrays of a feature set beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.catalog.published import catalog_path, sweep
from warehouse.errors import FoleyError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from warehouse.datasets.feature_set import ArrayColumn

_OPTIONS: dict[str, str | float | list[str]] = {"autoinstall_known_extensions": False}


def connect(home: str | Path) -> duckdb.DuckDBPyConnection:
    """HOME/catalog.duckdb as it was last published, read-only.

    Raises FoleyError when nothing was published yet.
    """
    import duckdb

    catalog = catalog_path(Path(home).expanduser())
    if not catalog.exists():
        raise FoleyError(f"there is no catalog in {catalog.parent} yet: curate something first")
    sweep(catalog)
    return duckdb.connect(str(catalog), read_only=True, config=_OPTIONS)


def query(
    home: str | Path,
    sql: str,
    params: Sequence[object] | Mapping[str, object] | None = None,
    features: str | None = None,
) -> pa.Table:
    """Rows of a query on HOME/catalog.duckdb as it was last published.

    The catalog is opened read-only, for the time of the query, without access to other files. With
    the id of a feature set in `features` there is a view `arrays` too: clip_id and the set's
    columns, array columns as FLOAT arrays of their shape, so that `tokens[1]` is the first token.
    Raises FoleyError when nothing was published yet and for anything that is not a query that
    DuckDB understands.
    """
    import duckdb

    try:
        with connect(home) as con:
            if features is not None:
                _arrays(con, Path(home).expanduser() / "features" / features)
            con.execute("set enable_external_access = false")
            rows: Any = con.sql(sql, params=params) if params else con.sql(sql)
            if rows is None:
                advice = "write a query, such as select * from funnel"
                raise FoleyError(f"the catalog is read-only: {advice}")
            return rows.to_arrow_table()
    except duckdb.Error as exc:
        raise FoleyError(f"the query failed: {exc}") from None


def _arrays(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Make the view `arrays`: bytes become floats only in columns and rows that a query uses."""
    from warehouse.datasets.feature_set import FeatureSet
    from warehouse.rows.live import literal, quote

    features = FeatureSet.open(folder)
    con.execute(f"set allowed_directories = [{literal(str(folder))}]")
    columns: list[str] = []
    for name in features.schema.names:
        column = features.columns.get(name)
        if column is None:
            columns.append(quote(name))
            continue
        function: Any = f"floats_of_{name}"
        type_: Any = "FLOAT" + "".join(f"[{size}]" for size in reversed(column.shape))
        blob: Any = "BLOB"
        create: Any = con.create_function  # its stubs know fewer ways to name types
        free = int((features.schema.field(name).metadata or {}).get(b"free", b"0"))
        create(function, _floats(column, free), [blob], type_, type="arrow")
        columns.append(f"{quote(function)}({quote(name)}) as {quote(name)}")
    rows, shown = features.rows_sql(), ", ".join(columns)
    con.execute(f"create temp view arrays as select {shown} from {rows}")


def _floats(column: ArrayColumn, free: int) -> Callable[[Any], object]:
    """A function from an Arrow array of bytes to one of float32 arrays [*shape].

    Values may be smaller in the dimension `free`: they are padded with zeros.
    """
    import numpy as np

    from warehouse.datasets.feature_set import nested

    def convert(values: Any) -> Any:  # DuckDB evaluates these names
        padded = np.zeros((len(values), *column.shape), np.float32)
        stored = [-1 if i == free else size for i, size in enumerate(column.shape)]
        for row, value in zip(padded, values, strict=True):
            array = np.frombuffer(value.as_buffer(), column.dtype).reshape(stored)
            both = tuple(slice(min(sizes)) for sizes in zip(row.shape, array.shape, strict=True))
            row[both] = array[both]
        return nested(padded)

    return convert
