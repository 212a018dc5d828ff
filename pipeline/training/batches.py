"""Batches of a dataset's features, as training and validation read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch

from model.training.trainer import FeatureBatch
from pipeline.features.columns import FEATURE_COLUMNS
from warehouse import Dataset, FeatureSet, FoleyError, Warehouse
from warehouse.datasets.feature_build import build as build_features


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


def feature_set(
    wh: Warehouse, dataset: Dataset, fps: Mapping[str, str], split: str, subset: str | None = None
) -> FeatureSet:
    """The joined features of one split (and subset) of a dataset."""
    return build_features(wh, dataset, fps, FEATURE_COLUMNS, split=split, subset=subset)


def split_batches(
    features: FeatureSet, batch_size: int, most: int | None = None
) -> list[FeatureBatch]:
    """A split once, in a fixed order: all of it, or the first batches."""
    return [
        feature_batch(arrays)
        for arrays in islice(features.batches(batch_size, drop_last=False), most)
    ]


def steps_of_batches(
    features: FeatureSet,
    batch_size: int,
    micro_batches: int,
    seed: int,
    mine: Sequence[int],
    first: int,
) -> Iterator[list[FeatureBatch]]:
    """From optimiser step `first` on: this process's micro-batches of each step.

    Micro-batch m of all steps of an epoch is share m of the epoch, so what a step sees does not
    depend on how many processes there are. Raises FoleyError when there are fewer clips than
    micro-batches.
    """
    if len(features) < micro_batches:
        raise FoleyError(
            f"features {features.id} hold {len(features)} clips, too few for {micro_batches} micro-batches"
        )
    size = min(batch_size, len(features) // micro_batches)
    an_epoch = features.steps(size, micro_batches)
    epoch, start = divmod(first, an_epoch)
    while True:
        shares = [
            features.batches(size, seed=seed, epoch=epoch, start=start, rank=m, world=micro_batches)
            for m in mine
        ]
        for arrays in zip(*shares, strict=True):
            yield [feature_batch(a) for a in arrays]
        epoch, start = epoch + 1, 0
