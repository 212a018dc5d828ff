"""The clips that a dataset version was selected from, with every fact, as one table."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.curation.policy import Policy, parse_policy
from warehouse.catalog.tables import STAGE_COLUMNS
from warehouse.datasets.versions import CURATED
from warehouse.errors import FoleyError
from warehouse.rows.live import literal, quote
from warehouse.schema import SPINE

if TYPE_CHECKING:
    import duckdb

#: Name, type and comment of a stage's own columns.
_COLUMNS = """
select column_name, data_type, comment from duckdb_columns()
where schema_name = 'history' and table_name = ? and column_name not in (select unnest(?))
order by column_index"""
_NUMBERS = ("FLOAT", "DOUBLE", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER", "UBIGINT")


@dataclass(frozen=True)
class DatasetClips:
    """A dataset version (its row of the catalog's `datasets`), and a connection to query its clips.

    The connection has the temporary table `dataset_clips`, a row a clip: the columns of
    `dataset_members`; path, label, prompt, truth and message (of a failure) of the clip; and all
    facts. `facts` are the numbers among these: their comment in the catalog by name.
    """

    con: duckdb.DuckDBPyConnection
    dataset: dict[str, Any]
    policy: Policy
    facts: dict[str, str]

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query, as mappings."""
        return self.con.sql(sql).to_arrow_table().to_pylist()


@contextmanager
def dataset_clips(home: Path, version: str | None = None) -> Generator[DatasetClips]:
    """Open the published catalog read-only for a dataset name or version; None is the newest.

    Raises FoleyError when there is no such dataset.
    """
    import duckdb

    catalog = home / "catalog.duckdb"
    if not catalog.exists():
        raise FoleyError(f"there is no catalog in {home} yet: curate something first")
    config: Any = {"autoinstall_known_extensions": False}
    try:
        with duckdb.connect(str(catalog), read_only=True, config=config) as con:
            dataset = _dataset(con, home, version)
            policy = parse_policy(dataset["policy"], f"of dataset {dataset['version']}")
            yield DatasetClips(con, dataset, policy, _make_table(con, dataset, policy.optional))
    except duckdb.Error as error:
        raise FoleyError(f"cannot query {catalog}: {error}") from None


def _dataset(con: duckdb.DuckDBPyConnection, home: Path, version: str | None) -> dict[str, Any]:
    chosen = f"role = {literal(CURATED)}"
    if version is not None:
        chosen = f"{literal(version)} in (version, name)"
    newest = con.sql(f"from datasets where {chosen} order by created_at desc limit 1")
    for row in newest.to_arrow_table().to_pylist():
        return row | {key: json.loads(row[key]) for key in ("policy", "fingerprints", "funnel")}
    latest = con.sql("select version from datasets order by created_at desc limit 5").fetchall()
    if not latest:
        raise FoleyError(f"there is no dataset in {home} yet: run foley curate FOLDER first")
    names = ", ".join(name for (name,) in latest)
    raise FoleyError(f"no dataset {version!r} in {home}; the latest are: {names}")


def _make_table(
    con: duckdb.DuckDBPyConnection, dataset: dict[str, Any], optional: tuple[str, ...]
) -> dict[str, str]:
    """Make the table; returns the facts with their comments."""
    facts: dict[str, str] = {}
    columns = dict.fromkeys(optional, "null::double")
    joins: list[str] = []
    messages = ["c.message"]
    for i, (stage, fingerprint) in enumerate(dataset["fingerprints"].items()):
        described = con.execute(_COLUMNS, [stage, [*SPINE.names, *STAGE_COLUMNS]]).fetchall()
        columns |= {name: f"s{i}.{quote(name)}" for name, _, _ in described}
        facts |= {name: text or name for name, type_, text in described if type_ in _NUMBERS}
        joins.append(
            f"left join history.{quote(stage)} s{i} on s{i}.clip_id = m.clip_id and s{i}.live "
            f"and s{i}.fingerprint = {literal(fingerprint)}"
        )
        messages.append(f"s{i}.message")
    own = "".join(f", {source} as {quote(name)}" for name, source in columns.items())
    con.execute(f"""
        create temp table dataset_clips as
        select m.*, c.path, c.label, c.prompt, c.truth,
               coalesce({", ".join(messages)}) as message{own}
        from dataset_members m left join clips c using (clip_id) {" ".join(joins)}
        where m.version = {literal(dataset["version"])}""")
    return facts
