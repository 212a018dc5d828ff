"""Cached features in five libraries: python examples/read_features.py HOME ID [LIBRARY ...].

ID is that of a feature set (`foley sql "from features"`). DuckDB, pyarrow and torch come with
foley-control; polars and datasets (of Hugging Face) are yours to add.
"""

import argparse
from pathlib import Path
from typing import Any

from warehouse import FeatureSet, query


def with_duckdb(home: Path, id: str) -> Any:
    """SQL on the arrays beside the catalog."""
    counts = "select label, count(*) as clips from arrays join clips using (clip_id) group by label"
    return query(home, counts, features=id)


def with_pyarrow(home: Path, id: str) -> Any:
    """A Dataset over the Parquet files, arrays as bytes: only what is asked for is read."""
    features = FeatureSet.open(home / "features" / id)
    return features.arrow.head(4)


def with_polars(home: Path, id: str) -> Any:
    """A DataFrame, arrays as columns of the type Array."""
    import polars as pl  # pyright: ignore[reportMissingImports]

    return pl.from_arrow(FeatureSet.open(home / "features" / id).table())


def with_datasets(home: Path, id: str) -> Any:
    """A Dataset of Hugging Face, arrays as lists of their shape."""
    import datasets  # pyright: ignore[reportMissingImports]

    table = FeatureSet.open(home / "features" / id).table()
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def with_torch(home: Path, id: str) -> Any:
    """Batches of tensors by name."""
    from torch.utils.data import DataLoader

    from pipeline.training.feature_dataset import FeatureDataset

    return next(iter(DataLoader(FeatureDataset(FeatureSet.open(home / "features" / id)), 4)))


LIBRARIES = {
    "duckdb": with_duckdb,
    "pyarrow": with_pyarrow,
    "polars": with_polars,
    "datasets": with_datasets,
    "torch": with_torch,
}


def main() -> None:
    """Print what each of the libraries reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("id")
    parser.add_argument("libraries", nargs="*", default=["duckdb", "pyarrow", "torch"])
    arguments = parser.parse_args()
    for name in arguments.libraries:
        print(name, LIBRARIES[name](arguments.home, arguments.id), sep="\n")


if __name__ == "__main__":
    main()
