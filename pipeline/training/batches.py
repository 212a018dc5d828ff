"""Batches of a dataset's features, as training and validation read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch

from model.presets.preset import Preset
from model.presets.settings import TrainSettings
from model.sampling.canvas import Canvas
from model.training.feature_batch import FeatureBatch, cut_to_fit
from pipeline.features.columns import FEATURE_COLUMNS
from warehouse import Dataset, FeatureSet, FoleyError, Warehouse
from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.files import Json

_MUCH = 0.02  # of the sound: more should not be cut off


def feature_batch(arrays: Mapping[str, np.ndarray], canvas: Canvas) -> FeatureBatch:
    """Arrays of a FeatureSet, padded to its longest clip -> tensors as long as the DiT is shown."""
    counts = {name: arrays[name].astype(np.int64) for name in ("n_video_tokens", "n_latents")}
    text = torch.from_numpy(arrays["text_tokens"].astype(np.float32))  # [B, N, D] padded
    longest = counts["n_latents"].max()
    batch = FeatureBatch(
        video=torch.from_numpy(arrays["video_tokens"][:, : counts["n_video_tokens"].max()]),
        frames=torch.from_numpy(counts["n_video_tokens"]),
        latent_mean=torch.from_numpy(arrays["latent_mean"][..., :longest]),
        latent_scale=torch.from_numpy(arrays["latent_scale"][..., :longest]),
        latents=torch.from_numpy(counts["n_latents"]),
        text=[
            row[:count] for row, count in zip(text, arrays["n_text_tokens"].tolist(), strict=True)
        ],
        seconds=arrays["audio_seconds"].tolist(),
    )
    batch = cut_to_fit(batch, canvas)
    # video tokens, which are most of it, stay in half precision: the bridge widens them
    mean, scale = batch.latent_mean.float(), batch.latent_scale.float()
    return replace(batch, latent_mean=mean, latent_scale=scale)


@dataclass(frozen=True)
class DatasetFeatures:
    """What a training or an evaluation is about: a dataset version and its features."""

    wh: Warehouse
    dataset: Dataset
    preset: Preset
    fingerprints: Mapping[str, str]  # under which the preset's stages wrote the features
    subset: str | None = None  # of the training split; the others are whole
    limit: int | None = None  # of clips of the test split
    ablation: bool = False  # a bridge that is trained for one is taken by no one who names none

    def held_out_clips(self) -> list[str]:
        """Ids of the clips of the test split that evaluation uses, sorted."""
        return sorted(self.dataset.clip_ids(split="test"))[: self.limit]

    @property
    def held_out_name(self) -> str:
        """Name of these clips as an evaluation set."""
        bound = "" if self.limit is None else f".{self.limit}"
        return f"held-out.{self.dataset.version}{bound}"

    def rows(
        self, stage: str, columns: Sequence[str], clip_ids: Sequence[str] | None = None
    ) -> dict[str, Json]:
        """Columns of a stage by clip: of all that passed it, or of these."""
        names, fingerprint = ["clip_id", *columns], self.fingerprints[stage]
        table = self.wh.rows(stage, fingerprint, columns=names, clip_ids=clip_ids)
        return {row["clip_id"]: row for row in table.to_pylist()}

    def split(self, name: str) -> FeatureSet:
        """The joined features of one split. Raises FoleyError where no clip of it has them all."""
        subset = self.subset if name == "train" else None
        request = FeatureRequest(self.dataset, self.fingerprints, FEATURE_COLUMNS, name, subset)
        return build(self.wh, request)

    def validation(self) -> Sequence[FeatureBatch]:
        """Clips to validate on; none where there are not two, of which one is the other's other.

        Raises FoleyError where early stopping needs them.
        """
        settings, known = self.preset.train, len(self.dataset.clip_ids("val"))
        batches = self.batches("val", settings.validation_clips) if known else None
        if batches is not None and batches.clips > 1:
            return batches
        if settings.patience is not None:
            raise FoleyError(
                f"train.patience needs two clips at least to validate on, and dataset "
                f"{self.dataset.version} has {batches.clips if batches else 0}: write val as the "
                "split of some clips in clips.csv, or raise val in the policy, and curate again"
            )
        return []

    @property
    def canvas(self) -> Canvas:
        """How long sounds are that the DiT runs."""
        return Canvas.of(self.preset)

    def batches(self, split: str, most: int | None = None) -> SplitBatches:
        """All clips of a split, or the first so many, in a fixed order; read when asked for."""
        by = alike_in(self.canvas)
        epoch = Epoch(self.preset.train.batch_size, by=by, drop_last=False, most=most)
        features = self.split(split)
        rows = features.rows(epoch)
        if split == "test" and self.limit is not None:
            used = np.isin(features.clip_ids(), self.held_out_clips()).nonzero()[0]
            rows = [some for batch in rows if len(some := batch[np.isin(batch, used)])]
        return SplitBatches(features, rows, self.canvas)


class SplitBatches(Sequence[FeatureBatch]):
    """Batches of row numbers of a feature set, each read from disk when it is asked for."""

    def __init__(self, features: FeatureSet, rows: Sequence[np.ndarray], canvas: Canvas) -> None:
        self.features, self.rows, self.canvas = features, rows, canvas
        self.clips = sum(map(len, rows))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> FeatureBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[FeatureBatch]: ...
    def __getitem__(self, index: int | slice) -> FeatureBatch | list[FeatureBatch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        [arrays] = self.features.read_batches([self.rows[index]])
        return feature_batch(arrays, self.canvas)


def alike_in(canvas: Canvas) -> str | None:
    """The column in which the clips of a batch are alike: their length, where there is no canvas.

    The DiT is shown no padding, so clips of one batch have one length.
    """
    return "n_latents" if canvas.seconds is None else None


def training_epoch(features: FeatureSet, settings: TrainSettings, canvas: Canvas) -> Epoch:
    """How training goes through its clips, first of all."""
    size = min(settings.batch_size, len(features))
    return Epoch(size, seed=settings.seed, by=alike_in(canvas))


def epoch_facts(features: FeatureSet, settings: TrainSettings, canvas: Canvas) -> Json:
    """What an epoch takes of the clips: how many, and the share of their sound that is cut off."""
    rows = features.rows(training_epoch(features, settings, canvas))
    latents = features.column("n_latents")
    most = None if canvas.seconds is None else canvas.length(0)
    lengths = [latents[batch] for batch in rows]
    kept = sum(int(np.minimum(n, n.min() if most is None else most).sum()) for n in lengths)
    taken = sum(int(n.sum()) for n in lengths)
    return {
        "clips": len(features),
        "clips_an_epoch": sum(map(len, rows)),
        "sound_cut": round(1 - kept / taken, 5),
    }


def epoch_text(facts: Json) -> str:
    """These facts, and what can be done where much is cut off, for a person to read."""
    text = f"an epoch takes {facts['clips_an_epoch']:,} of {facts['clips']:,} clips"
    if cut := facts["sound_cut"]:
        text += f" and cuts off {cut:.1%} of their sound, because a batch has one length"
        text += "; a smaller train.batch_size cuts less" if cut > _MUCH else ""
    return text


def micro_batches(
    features: FeatureSet, settings: TrainSettings, canvas: Canvas, mine: Sequence[int], first: int
) -> Iterator[FeatureBatch]:
    """From optimiser step `first` on: the micro-batches whose place in a step is in `mine`.

    One epoch's batches follow another's, and each step takes the next `micro_batches` of them. So
    what a step sees does not depend on how many processes there are, nor on where it was resumed,
    and there may be fewer clips than a step takes.
    """
    number = first * settings.micro_batches
    epoch = training_epoch(features, settings, canvas)
    count = len(features) // epoch.batch_size
    while True:
        index, start = divmod(number, count)
        rows = features.rows(replace(epoch, number=index))[start:]
        here = [r for n, r in enumerate(rows, number) if n % settings.micro_batches in mine]
        for arrays in features.read_batches(here):
            yield feature_batch(arrays, canvas)
        number += len(rows)
