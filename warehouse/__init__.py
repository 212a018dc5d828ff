"""Where things are kept: Parquet commits, the DuckDB catalog, datasets, records, feature reader.

Imports no other room. Names are loaded when first used, so that `import warehouse` is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from warehouse.errors import FoleyError as FoleyError

if TYPE_CHECKING:
    from warehouse.catalog.lineage import trace as trace
    from warehouse.catalog.query import query as query
    from warehouse.catalog.status import Status as Status
    from warehouse.catalog.status import status as status
    from warehouse.cleanup import compact as compact
    from warehouse.cleanup import gc as gc
    from warehouse.datasets.feature_set import FeatureSet as FeatureSet
    from warehouse.datasets.versions import Dataset as Dataset
    from warehouse.ingest import IngestResult as IngestResult
    from warehouse.maintenance import release as release
    from warehouse.maintenance import verify as verify
    from warehouse.schema import array_field as array_field
    from warehouse.schema import field as field
    from warehouse.schema import from_bytes as from_bytes
    from warehouse.schema import to_bytes as to_bytes
    from warehouse.store import Warehouse as Warehouse

_NAMES = {
    "catalog.lineage": "trace",
    "catalog.query": "query",
    "catalog.status": "Status status",
    "cleanup": "compact gc",
    "datasets.feature_set": "FeatureSet",
    "datasets.versions": "Dataset",
    "ingest": "IngestResult",
    "maintenance": "release verify",
    "schema": "array_field field from_bytes to_bytes",
    "store": "Warehouse",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'warehouse' has no attribute {name!r}")
    value = getattr(import_module(f"warehouse.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
