"""Read-only queries on the published catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.errors import FoleyError

if TYPE_CHECKING:
    import pyarrow as pa

_OPTIONS: dict[str, Any] = {"autoinstall_known_extensions": False, "enable_external_access": False}


def query(home: str | Path, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
    """Rows of a query on HOME/catalog.duckdb as it was last published.

    The catalog is opened read-only, for the time of the query, without access to other files. Raises FoleyError when
    nothing was published yet and for anything that is not a query that DuckDB understands.
    """
    import duckdb

    catalog = Path(home).expanduser() / "catalog.duckdb"
    if not catalog.exists():
        raise FoleyError(f"there is no catalog in {catalog.parent} yet: curate something first")
    try:
        with duckdb.connect(str(catalog), read_only=True, config=_OPTIONS) as con:
            found: Any = con.sql(sql, params=params) if params else con.sql(sql)
            if found is None:
                raise FoleyError("the catalog is read-only: write a query, such as select * from funnel")
            return found.to_arrow_table()
    except duckdb.Error as exc:
        raise FoleyError(f"the query failed: {exc}") from None
