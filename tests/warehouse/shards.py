"""Feature sets of several shards, and what their clips hold."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import length, stages, tokens
from warehouse import FeatureSet, Warehouse
from warehouse.datasets import feature_build, feature_reader
from warehouse.datasets.feature_build import FeatureRequest, build

COLUMNS = ["tokens", "n_tokens", "prompt"]
CLIPS = 300
PASSED = [f"clip{i:04d}" for i in range(CLIPS) if i % 10 < 7]


def request(wh: Warehouse) -> FeatureRequest:
    return FeatureRequest(wh.dataset("all"), fingerprints(stages()), COLUMNS, split=None, seed=1)


def build_with(wh: Warehouse, sizes: dict[str, int]) -> FeatureSet:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(feature_build, name, value)
        patch.setattr(feature_reader, "_OPEN_FILES", 2)
        return build(wh, request(wh))


def level_of(clip: str) -> float:
    return float(int(clip.removeprefix("clip")) % 50)


def assert_own_values(batch: feature_reader.Arrays) -> None:
    for clip, array, count, prompt in zip(*(batch[c] for c in ("clip_id", *COLUMNS)), strict=True):
        level = level_of(clip)
        assert (count, len(prompt)) == (length(level), int(clip[4:]) % 7)
        assert np.array_equal(array[:count], tokens(level))
        assert not array[count:].any()
