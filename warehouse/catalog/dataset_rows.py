"""The members of all dataset versions, each row once with the versions that have it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.datasets.members import MEMBERS
from warehouse.datasets.versions import Dataset
from warehouse.errors import FoleyError
from warehouse.rows.live import literal, quote, sql_type

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("foley.warehouse")
_COLUMNS = ", ".join(quote(name) for name in MEMBERS.names)


def make_dataset_rows(con: duckdb.DuckDBPyConnection) -> None:
    """Make the table dataset_rows, empty, and the view of all members, after the table datasets."""
    types = {field.name: sql_type(field.type) for field in MEMBERS}
    columns = ", ".join(f"{quote(name)} {type_}" for name, type_ in types.items())
    con.execute(
        f'create table dataset_rows (name varchar, "first" integer, "last" integer, {columns})'
    )
    shown = ", ".join(f"r.{quote(name)}" for name in MEMBERS.names)
    con.execute(f"""
        create view dataset_members as select d.version, {shown}
        from dataset_rows r join datasets d
        on d.name = r.name and d.number between r."first" and coalesce(r."last", d.number)""")


def published_rows(con: duckdb.DuckDBPyConnection, published: Path) -> None:
    """Take over the rows of a published catalog, of this kind or an older one."""
    import duckdb

    if not published.exists():
        return
    try:
        con.execute(f"attach {literal(str(published))} as published (read_only)")
    except duckdb.Error:  # no catalog that can be read
        return
    with suppress(duckdb.CatalogException):  # of an older kind
        con.execute("insert into dataset_rows by name from published.dataset_rows")
        con.execute("insert into datasets by name from published.datasets")
    con.execute("detach published")


def add_versions(con: duckdb.DuckDBPyConnection, datasets: Sequence[Dataset]) -> list[Dataset]:
    """Add the versions that are not in the table datasets yet, in the order of their numbers.

    Versions never change, so the rows of the others hold for ever. Returns the versions whose rows
    are there: those that are damaged are left out.
    """
    known = {row[0] for row in con.execute("select version from datasets").fetchall()}
    last = {dataset.name: dataset.number for dataset in datasets if dataset.version in known}
    new = [dataset for dataset in datasets if dataset.version not in known]
    if any(dataset.number < last.get(dataset.name, 0) for dataset in new):
        con.execute("delete from dataset_rows")  # another took the place of a version: all anew
        new = list(datasets)
    damaged: list[Dataset] = []
    for dataset in new:
        try:
            _add(con, dataset)
        except FoleyError as exc:
            _log.warning("dataset %s is not in the catalog: %s", dataset.version, exc)
            damaged.append(dataset)
    return [dataset for dataset in datasets if dataset not in damaged]


def _add(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> None:
    """Add a version: rows that it does not have end before it, and its new ones begin with it."""
    name, members = literal(dataset.name), dataset.members(kept=None)
    con.register("now", members)
    still = f'from dataset_rows where name = {name} and "last" is null'
    con.execute(f"""
        update dataset_rows set "last" = {dataset.number - 1}
        where name = {name} and "last" is null and clip_id in (
            select clip_id from (select {_COLUMNS} {still} except select {_COLUMNS} from now))""")
    con.execute(f"""
        insert into dataset_rows by name
        select {name} as name, {dataset.number} as "first", *
        from (select {_COLUMNS} from now except select {_COLUMNS} {still})""")
    con.unregister("now")
