"""Where things are kept: Parquet commits, the DuckDB catalog, datasets, records and the feature reader.

Names are loaded when first used, so that `import warehouse` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from warehouse.errors import FoleyError

if TYPE_CHECKING:
    from warehouse.catalog.build import publish
    from warehouse.catalog.lineage import trace
    from warehouse.catalog.query import query
    from warehouse.catalog.status import Status, status
    from warehouse.datasets.feature_set import FeatureSet
    from warehouse.datasets.versions import Dataset
    from warehouse.ingest import IngestResult
    from warehouse.maintenance import compact, gc, release, verify
    from warehouse.schema import array_field, field, from_bytes, to_bytes
    from warehouse.store import Warehouse

_HOMES = {
    "Dataset": "datasets.versions",
    "FeatureSet": "datasets.feature_set",
    "IngestResult": "ingest",
    "Status": "catalog.status",
    "Warehouse": "store",
    "array_field": "schema",
    "compact": "maintenance",
    "field": "schema",
    "from_bytes": "schema",
    "gc": "maintenance",
    "publish": "catalog.build",
    "query": "catalog.query",
    "release": "maintenance",
    "status": "catalog.status",
    "to_bytes": "schema",
    "trace": "catalog.lineage",
    "verify": "maintenance",
}

__all__ = [
    "Dataset",
    "FeatureSet",
    "FoleyError",
    "IngestResult",
    "Status",
    "Warehouse",
    "array_field",
    "compact",
    "field",
    "from_bytes",
    "gc",
    "publish",
    "query",
    "release",
    "status",
    "to_bytes",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'warehouse' has no attribute {name!r}")
    value = getattr(import_module(f"warehouse.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
