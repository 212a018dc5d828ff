"""What the catalog holds beside the stages: tables, views, and comments on their columns."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from warehouse.commits import CLIPS_DESCRIPTOR
from warehouse.datasets.members import MEMBERS
from warehouse.rows.live import literal, quote
from warehouse.schema import CLIPS, SPINE, comment_of

#: Columns that stage views and history tables have beside the spine and the stage's own.
STAGE_COLUMNS = {
    "fingerprint": "hash of the settings and models that the row was made under",
    "current": "whether that is the fingerprint under which the stage was last planned",
    "live": "whether the row is the one that counts for the clip as it is now",
}
_CATALOG = tomllib.loads((Path(__file__).parent / "catalog.toml").read_text("utf-8"))
#: By name: `comment`, and `columns` with the type and comment of each.
TABLES: dict[str, Any] = _CATALOG["tables"]
#: By name: `comment`, `sql`, and `columns` with the comment of each.
VIEWS: dict[str, Any] = _CATALOG["views"]
#: Names that no stage can have.
RESERVED = frozenset(
    {
        *TABLES,
        *VIEWS,
        "dataset_members",
        "dataset_rows",
        "meta",
        "clips",
        "history",
        "main",
        "select",
    }
)


def comment_sql() -> Iterator[str]:
    """COMMENT statements for everything but the stages."""
    keys = "home: the folder that it was built from; dataset and policy: of runs that name none"
    keys += "; the others are the publisher's"
    meta = {"key": keys, "value": "its value"}
    yield from comments_sql("table", "meta", "How the catalog was built.", meta)
    spine = {f.name: comment_of(f) for f in SPINE}
    spine["status"] = "passed, or failed when the file cannot be read"
    spine["error"] = "class of the error reading the file"
    names = ("error", "message", "committed_at", "generation", "commit")
    clips = {name: spine[name] for name in ("clip_id", "status")}
    clips |= {f.name: comment_of(f) for f in CLIPS} | {name: spine[name] for name in names}
    yield from comments_sql("table", "clips", CLIPS_DESCRIPTOR.doc, clips)
    members = {f.name: comment_of(f) for f in MEMBERS}
    doc = "Every clip that a dataset version judged: kept, or dropped with its reason."
    of = {"version": "dataset version"}
    yield from comments_sql("view", "dataset_members", doc, of | members)
    doc = "The rows of dataset_members, each once with the versions that have it."
    of = {"name": "name of the dataset", "first": "number of the first version that has the row"}
    of["last"] = "number of the last version that has it, null while the newest has it"
    yield from comments_sql("table", "dataset_rows", doc, of | members)
    for name, table in TABLES.items():
        texts = {column: text for column, (_, text) in table["columns"].items()}
        yield from comments_sql("table", name, table["comment"], texts)
    for name, view in VIEWS.items():
        yield from comments_sql("view", name, view["comment"], view["columns"])


def comments_sql(kind: str, name: str, doc: str, columns: Mapping[str, str]) -> Iterator[str]:
    """COMMENT statements for one table or view and its columns."""
    yield f"comment on {kind} {name} is {literal(doc)}"
    for column, text in columns.items():
        yield f"comment on column {name}.{quote(column)} is {literal(text)}"
