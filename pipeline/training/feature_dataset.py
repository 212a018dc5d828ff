"""A dataset's cached features as torch and pyarrow know them, for training of one's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.dataset
import torch
from torch.utils.data import Dataset

from model.presets.preset import Preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.training.batches import DatasetFeatures
from warehouse import FeatureSet, Warehouse
from warehouse.datasets.corpus import choose_dataset


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features of one split, an item a clip: tensors by name, and the texts `clip_id` and others.

    Arrays are padded to the longest clip of the set and `n_...` says how much is the clip's own, so
    a DataLoader stacks them as they are:

        video_tokens [J, P, V] float16    effective frames, tokens a frame, width of the encoder
        latent_mean, latent_scale [C, L]  of the backbone's VAE, float16
        text_tokens [N, D] float16        of the prompt
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.clip_ids = features.clip_ids()

    @property
    def arrow(self) -> pyarrow.dataset.Dataset:
        """The same features as a pyarrow Dataset over their Parquet files."""
        return self.features.arrow

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several items, which are read together; a DataLoader calls this for a batch."""
        arrays = self.features.read([self.clip_ids[row] for row in rows])
        return [
            {name: _value(values[i]) for name, values in arrays.items()} for i in range(len(rows))
        ]


def _value(value: object) -> object:
    """A tensor, or the text or number that a DataLoader collates."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value.item() if isinstance(value, np.generic) else value


def open_features(wh: Warehouse, dataset: str | None, split: str, preset: Preset) -> FeatureDataset:
    """The features of a split of a dataset (None: the newest), joined if they were not yet.

    Raises FoleyError if there is no such dataset, or no clip of the split has its features.
    """
    version = choose_dataset(wh, dataset)
    fingerprints = StageGraph(preset).feature_fingerprints
    return FeatureDataset(DatasetFeatures(wh, version, preset, fingerprints).split(split))
