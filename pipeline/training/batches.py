"""Batches of a dataset's features, as training and validation read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from model.presets.preset import Preset
from model.presets.settings import TrainSettings
from model.training.trainer import FeatureBatch
from pipeline.features.columns import FEATURE_COLUMNS
from warehouse import Dataset, FeatureSet, FoleyError, Warehouse
from warehouse.datasets.feature_build import FeatureRequest, build


def feature_batch(arrays: Mapping[str, np.ndarray]) -> FeatureBatch:
    """Arrays of a FeatureSet -> tensors for the model."""
    text = torch.from_numpy(arrays["text_tokens"].astype(np.float32))  # [B, N, D] padded
    return FeatureBatch(
        video=torch.from_numpy(arrays["video_tokens"].astype(np.float32)),
        frames=torch.from_numpy(arrays["n_video_tokens"].astype(np.int64)),
        latent_mean=torch.from_numpy(arrays["latent_mean"].astype(np.float32)),
        latent_scale=torch.from_numpy(arrays["latent_scale"].astype(np.float32)),
        latents=torch.from_numpy(arrays["n_latents"].astype(np.int64)),
        text=[
            row[:count] for row, count in zip(text, arrays["n_text_tokens"].tolist(), strict=True)
        ],
        seconds=arrays["audio_seconds"].tolist(),
    )


@dataclass(frozen=True)
class DatasetFeatures:
    """What a training or an evaluation is about: a dataset version and its features.

    Features are those that the preset's stages wrote under `fingerprints`. A `subset` narrows the
    training split and no other.
    """

    wh: Warehouse
    dataset: Dataset
    preset: Preset
    fingerprints: Mapping[str, str]
    subset: str | None = None

    def split(self, name: str) -> FeatureSet:
        """The joined features of one split. Raises FoleyError where no clip of it has them all."""
        subset = self.subset if name == "train" else None
        request = FeatureRequest(self.dataset, self.fingerprints, FEATURE_COLUMNS, name, subset)
        return build(self.wh, request)

    def batches(self, split: str, most: int | None = None) -> list[FeatureBatch]:
        """A split once, in a fixed order: all of it, or the first batches."""
        batches = self.split(split).batches(self.preset.train.batch_size, drop_last=False)
        return [feature_batch(arrays) for arrays in islice(batches, most)]


def steps_of_batches(
    features: FeatureSet, settings: TrainSettings, mine: Sequence[int], first: int
) -> Iterator[list[FeatureBatch]]:
    """From optimiser step `first` on: the micro-batches `mine` of each step.

    Micro-batch m of all steps of an epoch is share m of the epoch, so what a step sees does not
    depend on how many processes there are. Raises FoleyError when there are fewer clips than
    micro-batches.
    """
    shares = settings.micro_batches
    if len(features) < shares:
        raise FoleyError(
            f"features {features.id} hold {len(features)} clips, too few for {shares} micro-batches"
        )
    size = min(settings.batch_size, len(features) // shares)
    epoch, start = divmod(first, features.steps(size, shares))
    while True:
        batches = [
            features.batches(
                size, seed=settings.seed, epoch=epoch, start=start, rank=m, world=shares
            )
            for m in mine
        ]
        for arrays in zip(*batches, strict=True):
            yield [feature_batch(a) for a in arrays]
        epoch, start = epoch + 1, 0
