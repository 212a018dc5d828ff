"""The warehouse: the one object through which flows and stages keep and find things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.errors import FoleyError
from warehouse.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.datasets.feature_set import FeatureSet
    from warehouse.datasets.versions import Dataset
    from warehouse.ingest import IngestResult


class Warehouse(Home):
    """A home folder with what is asked of it most often; each method loads what it needs."""

    def ingest(
        self, clips: pa.Table, progress: Callable[[int, int], None] | None = None
    ) -> IngestResult:
        """Take in clips: see :func:`warehouse.ingest.ingest`."""
        from warehouse.ingest import ingest

        return ingest(self, clips, progress)

    def rows(
        self,
        stage: str,
        fingerprint: str,
        status: str | None = "passed",
        columns: Sequence[str] | None = None,
        clip_ids: Sequence[str] | None = None,
    ) -> pa.Table:
        """Live rows of a stage, sorted by clip_id: see :func:`warehouse.rows.read.rows`."""
        from warehouse.rows.read import Selection, rows

        return rows(self, stage, fingerprint, Selection(status, columns, clip_ids))

    def clips(
        self,
        columns: Sequence[str] | None = None,
        clip_ids: Sequence[str] | None = None,
        status: str | None = "passed",
    ) -> pa.Table:
        """Newest row of every clip, sorted by clip_id."""
        return self.rows("clips", "source", status, columns, clip_ids)

    def dataset(self, name_or_version: str) -> Dataset:
        """A dataset version, or the newest of a name. Raises FoleyError when there is none."""
        from warehouse.datasets.versions import find_dataset

        return find_dataset(self, name_or_version)

    def datasets(self) -> list[Dataset]:
        """Every dataset version, oldest first within a name."""
        from warehouse.datasets.versions import list_datasets

        return list_datasets(self)

    def features(self, id: str) -> FeatureSet:
        """Open a feature set. Raises FoleyError when there is none of that id."""
        from warehouse.datasets.feature_set import FeatureSet

        return FeatureSet.open(self.home / "features" / id, self)

    def publish(self) -> Path:
        """Build the catalog and swap it in: see :func:`warehouse.catalog.build.publish`."""
        from warehouse.catalog.build import publish

        return publish(self)

    def publish_if_possible(self) -> bool:
        """Publish after work that is done and kept: a failure is a warning, never an error."""
        from warehouse.catalog.build import publish_if_possible

        return publish_if_possible(self)


def open_warehouse(home: Path) -> Warehouse:
    """The warehouse of a home folder. Raises FoleyError for one that is not there."""
    if not home.is_dir():
        advice = "run foley demo, or foley curate FOLDER, or give --home"
        raise FoleyError(f"there is nothing in {home} yet: {advice}")
    return Warehouse(home)
