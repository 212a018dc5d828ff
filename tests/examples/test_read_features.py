"""The example that reads features: each library gives every clip its own values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from examples.read_features import LIBRARIES
from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, SHAPE, make_files, run_all, stages, tokens
from warehouse import FeatureSet, Warehouse, query
from warehouse.datasets.feature_build import FeatureRequest, build

CLIPS = 12


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    folder = tmp_path_factory.mktemp("features")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", CLIPS))
    run_all(wh, stages())
    prints = fingerprints(stages())
    dataset = select(wh, prints, POLICY)
    columns = ["tokens", "n_tokens", "prompt"]
    built = build(wh, FeatureRequest(dataset, prints, columns, split=None))
    wh.publish()
    return built


def padded(clip: str) -> np.ndarray:
    own = tokens(float(int(clip.removeprefix("clip"))))
    return np.concatenate([own, np.zeros((3 - len(own), *SHAPE), np.float16)])


#: Clips with their arrays, of what a library gives.
ROWS: dict[str, Callable[[Any], list[tuple[str, Any]]]] = {
    "polars": lambda frame: list(zip(frame["clip_id"], frame["tokens"].to_numpy(), strict=True)),
    "datasets": lambda rows: [(row["clip_id"], row["tokens"]) for row in rows],
    "torch": lambda batch: list(zip(batch["clip_id"], batch["tokens"], strict=True)),
    "pyarrow": lambda table: [
        (row["clip_id"], np.frombuffer(row["tokens"], np.float16).reshape(3, *SHAPE))
        for row in table.to_pylist()
    ],
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_reads_the_clips_with_their_values(features: FeatureSet, library: str) -> None:
    if library in ("polars", "datasets"):
        pytest.importorskip(library, reason=f"{library} is no dependency")
    read = LIBRARIES[library](features.path.parent.parent, features.id)
    if library == "duckdb":
        assert read.to_pylist() == [{"label": None, "clips": len(features)}]
        return
    found = ROWS[library](read)
    assert len(found) == (4 if library in ("torch", "pyarrow") else len(features))
    for clip, array in found:
        assert np.array_equal(np.array(array), padded(clip))


def test_the_catalog_says_what_the_arrays_are(features: FeatureSet) -> None:
    home = features.path.parent.parent
    [column] = query(home, "select name, dtype, shape from array_columns").to_pylist()
    assert column == {"name": "tokens", "dtype": "float16", "shape": "[-1, 3, 4]"}
    assert query(home, "select shapes from features").to_pylist() == [
        {"shapes": '{"tokens": [3, 3, 4]}'}
    ]
