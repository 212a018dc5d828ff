"""The clips that a dataset version was selected from, with every fact, as one table."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.curation.policy import Policy, parse_policy
from warehouse.catalog.query import connect
from warehouse.catalog.tables import STAGE_COLUMNS
from warehouse.datasets.corpus import choose_dataset
from warehouse.errors import FoleyError
from warehouse.files import Json
from warehouse.rows.live import literal, quote
from warehouse.schema import SPINE
from warehouse.store import open_warehouse

if TYPE_CHECKING:
    import duckdb

#: Name, type and comment of a stage's own columns.
_COLUMNS = """
select column_name, data_type, comment from duckdb_columns()
where schema_name = 'history' and table_name = ? and column_name not in (select unnest(?))
order by column_index"""
#: 64 bits without a sign (UBIGINT) are hashes here, which are more or less of nothing.
_NUMBERS = ("FLOAT", "DOUBLE", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER")


@dataclass(frozen=True)
class DatasetClips:
    """A dataset version (its record, with its counts), and a connection to query its clips.

    The connection has the temporary table `dataset_clips`, a row a clip: the columns of
    `dataset_members`; path, label, prompt, truth and message (of a failure) of the clip; and all
    facts. `facts` are the numbers among these: their comment in the catalog by name.
    """

    con: duckdb.DuckDBPyConnection
    dataset: Json
    policy: Policy
    facts: dict[str, str]

    def rows(self, sql: str) -> list[Json]:
        """Rows of a query, as mappings."""
        return self.con.sql(sql).to_arrow_table().to_pylist()


@contextmanager
def dataset_clips(home: Path, version: str | None = None) -> Generator[DatasetClips]:
    """Open the published catalog read-only for a dataset name or version; None is the newest.

    Raises FoleyError when there is no such dataset.
    """
    import duckdb

    wh = open_warehouse(home)
    record = choose_dataset(wh, version)
    dataset = asdict(record) | record.counts
    policy = parse_policy(record.policy, f"of dataset {record.version}")
    try:
        with connect(home) as con:
            yield DatasetClips(con, dataset, policy, _make_table(con, dataset, policy.optional))
    except duckdb.Error as error:
        raise FoleyError(f"cannot query the catalog of {home}: {error}") from None


def _make_table(
    con: duckdb.DuckDBPyConnection, dataset: Json, optional: tuple[str, ...]
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
