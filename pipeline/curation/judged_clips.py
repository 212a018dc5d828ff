"""The clips that a dataset version judged, with every fact that it judged them by.

One table, from the catalog.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.catalog.tables import STAGE_COLUMNS
from warehouse.datasets.versions import UNCURATED
from warehouse.errors import FoleyError
from warehouse.rows.live import literal, quote
from warehouse.schema import SPINE

if TYPE_CHECKING:
    import duckdb

#: Name, type and comment of a stage's own columns.
_COLUMNS = """select column_name, data_type, comment from duckdb_columns()
where schema_name = 'history' and table_name = ? and column_name not in (select unnest(?)) order by column_index"""
_NUMBERS = ("FLOAT", "DOUBLE", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER", "UBIGINT")


@dataclass(frozen=True)
class Judged:
    """A dataset version (its row of the catalog's `datasets`), and a connection that has the temporary table `judged`.

    `judged` has a row a clip: the columns of `dataset_members`, path, label, prompt, truth and
    message (of a failure) of the clip, and all facts. `facts` are the numbers among these: their
    comment in the catalog by name.
    """

    con: duckdb.DuckDBPyConnection
    dataset: dict[str, Any]
    facts: dict[str, str]

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query, as mappings."""
        return self.con.sql(sql).to_arrow_table().to_pylist()


@contextmanager
def judged(home: Path, version: str | None = None) -> Generator[Judged]:
    """Open the published catalog read-only for a dataset name or version; None is the newest.

    Raises FoleyError when there is no such dataset.
    """
    import duckdb

    catalog = home / "catalog.duckdb"
    if not catalog.exists():
        raise FoleyError(f"there is no catalog in {home} yet: curate something first")
    try:
        with duckdb.connect(
            str(catalog), read_only=True, config={"autoinstall_known_extensions": False}
        ) as con:
            dataset = _dataset(con, home, version)
            facts = _fill(con, dataset)
            yield Judged(con, dataset, facts)
    except duckdb.Error as error:
        raise FoleyError(f"cannot query {catalog}: {error}") from None


def _dataset(con: duckdb.DuckDBPyConnection, home: Path, version: str | None) -> dict[str, Any]:
    chosen = (
        f"not suffix(name, {literal(UNCURATED)})"
        if version is None
        else f"{literal(version)} in (version, name)"
    )
    found = (
        con.sql(f"from datasets where {chosen} order by created_at desc limit 1")
        .to_arrow_table()
        .to_pylist()
    )
    if not found:
        known = [
            row[0]
            for row in con.sql(
                "select version from datasets order by created_at desc limit 5"
            ).fetchall()
        ]
        if not known:
            raise FoleyError(f"there is no dataset in {home} yet: run foley curate FOLDER first")
        raise FoleyError(f"no dataset {version!r} in {home}; the latest are: {', '.join(known)}")
    return found[0] | {
        name: json.loads(found[0][name]) for name in ("policy", "fingerprints", "funnel")
    }


def _fill(con: duckdb.DuckDBPyConnection, dataset: dict[str, Any]) -> dict[str, str]:
    """Make the table; returns the facts with their comments."""
    facts: dict[str, str] = {}
    columns: dict[str, str] = {}
    joins: list[str] = []
    messages = ["c.message"]
    for i, (stage, fingerprint) in enumerate(dataset["fingerprints"].items()):
        described = con.execute(_COLUMNS, [stage, [*SPINE.names, *STAGE_COLUMNS]]).fetchall()
        for name, type_, comment in described:
            columns[name] = f"s{i}.{quote(name)}"
            if type_ in _NUMBERS:
                facts[name] = comment or name
        joins.append(
            f"left join history.{quote(stage)} s{i} on s{i}.clip_id = m.clip_id and s{i}.live "
            f"and s{i}.fingerprint = {literal(fingerprint)}"
        )
        messages.append(f"s{i}.message")
    absent = [
        f"null::double as {quote(name)}"
        for name in dataset["policy"]["optional"]
        if name not in columns
    ]
    shown = [f"{source} as {quote(name)}" for name, source in columns.items()] + absent
    con.execute(
        f"create temp table judged as select m.*, c.path, c.label, c.prompt, c.truth, coalesce({', '.join(messages)}) "
        f"as message, {', '.join(shown)} from dataset_members m left join clips c using (clip_id) {' '.join(joins)} "
        f"where m.version = {literal(dataset['version'])}"
    )
    return facts
