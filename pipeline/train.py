"""Training of the bridge on a dataset version, from cached features only, into a checkpoint of the warehouse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.backbone import Backbone
from model.bridge import Bridge
from model.foley import build_bridge, save_bridge
from model.presets import Preset
from model.training import FeatureBatch, Progress, train_bridge
from model.video import VideoEncoder
from pipeline.curation import FEATURE_COLUMNS
from warehouse import Dataset, FeatureSet, Warehouse

TRAINING_VERSION = 1  # raised when the code changes what training gives
SCALE_BATCHES = 64  # batches from which the scale of the video features is measured


@dataclass(frozen=True)
class Checkpoint:
    """A trained bridge in the warehouse; `trained` is False where it was there already."""

    id: str
    path: Path
    record: dict[str, Any]
    trained: bool


def feature_batch(arrays: Mapping[str, np.ndarray]) -> FeatureBatch:
    """Arrays of a FeatureSet -> tensors for the model."""
    text = torch.from_numpy(arrays["text_tokens"].astype(np.float32))  # [B, N, D] padded
    return FeatureBatch(
        video=torch.from_numpy(arrays["video_tokens"].astype(np.float32)),
        frames=torch.from_numpy(arrays["n_video_tokens"].astype(np.int64)),
        latent_mean=torch.from_numpy(arrays["latent_mean"].astype(np.float32)),
        latent_scale=torch.from_numpy(arrays["latent_scale"].astype(np.float32)),
        latents=torch.from_numpy(arrays["n_latents"].astype(np.int64)),
        text=[row[:count] for row, count in zip(text, arrays["n_text_tokens"].tolist(), strict=True)],
        seconds=arrays["audio_seconds"].tolist(),
    )


def feature_set(wh: Warehouse, dataset: Dataset, fps: Mapping[str, str], split: str) -> FeatureSet:
    """The joined features of one split of a dataset."""
    return FeatureSet.build(wh, dataset, fps, FEATURE_COLUMNS, split=split)


def split_batches(features: FeatureSet, batch_size: int) -> list[FeatureBatch]:
    """A whole split once, in a fixed order."""
    return [feature_batch(arrays) for arrays in features.batches(batch_size, drop_last=False)]


def _endless(features: FeatureSet, batch_size: int, seed: int) -> Iterator[FeatureBatch]:
    size = min(batch_size, len(features))
    epoch = 0
    while True:
        yield from map(feature_batch, features.batches(size, seed=seed, epoch=epoch))
        epoch += 1


def _identity(preset: Preset, dataset: Dataset, features: FeatureSet, seed: int) -> dict[str, Any]:
    return {
        "version": TRAINING_VERSION,
        "dataset": dataset.version,
        "features": features.id,
        "preset": preset.name,
        "backbone": Backbone.revision(preset),
        "encoder": VideoEncoder.revision(preset),
        "bridge": preset.bridge.model_dump(),
        "training": preset.train.model_dump(),
        "seed": seed,
    }


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_checkpoint(wh: Warehouse, id: str) -> Checkpoint | None:
    """A finished checkpoint whose file is what was written, or None."""
    path = wh.folder("checkpoints") / id / "bridge.safetensors"
    known = [record for record in wh.records("checkpoints") if record["id"] == id]
    if not known or not path.is_file() or _file_hash(path) != known[0]["sha256"]:
        return None
    return Checkpoint(id, path, known[0], trained=False)


def train(
    wh: Warehouse,
    dataset: Dataset,
    fps: Mapping[str, str],
    preset: Preset,
    on_progress: Callable[[Progress], None],
    seed: int = 0,
) -> Checkpoint:
    """Train the preset's bridge on the dataset's `train` split, or find the checkpoint that was trained so before.

    Raises FoleyError if the split holds no clip with features. Without a `val` split nothing is measured on the way.
    """
    features = feature_set(wh, dataset, fps, "train")
    identity = _identity(preset, dataset, features, seed)
    id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    if found := find_checkpoint(wh, id):
        return found
    backbone = Backbone.from_pretrained(preset)
    bridge = _fresh_bridge(backbone, features, seed)
    size = preset.train.batch_size
    held_out = dataset.clip_ids(split="val")
    validation = split_batches(feature_set(wh, dataset, fps, "val"), size) if held_out else []
    losses: list[list[float]] = []
    measured: list[list[float]] = []

    def report(progress: Progress) -> None:
        losses.append([progress.step, progress.loss])
        if (v := progress.validation) is not None:
            measured.append([progress.step, v.true, v.null, v.other])
        on_progress(progress)

    settings = preset.train.model_copy(update={"seed": seed})
    train_bridge(backbone, bridge, _endless(features, size, seed), validation, settings, report)
    return _keep(wh, id, bridge, identity | {"steps": settings.steps, "losses": losses, "validation": measured})


def _fresh_bridge(backbone: Backbone, features: FeatureSet, seed: int) -> Bridge:
    """An untrained bridge, inserted, that knows the scale of the video features."""
    torch.manual_seed(seed)
    bridge = build_bridge(backbone, backbone.preset.video.width)
    arrays = islice(features.batches(backbone.preset.train.batch_size, drop_last=False), SCALE_BATCHES)
    bridge.fit_scale(torch.cat([feature_batch(batch).video.flatten(0, -2) for batch in arrays]))
    bridge.insert(backbone.dit)
    return bridge


def _keep(wh: Warehouse, id: str, bridge: Bridge, record: dict[str, Any]) -> Checkpoint:
    """Write the bridge, then the record that makes it a checkpoint."""
    path = wh.folder("checkpoints") / id / "bridge.safetensors"
    partial = path.with_suffix(".tmp")
    save_bridge(partial, bridge, record["backbone"], record["encoder"])
    partial.replace(path)
    whole = record | {"id": id, "created_at": datetime.now(UTC).isoformat(), "sha256": _file_hash(path)}
    wh.write_record("checkpoints", id, whole)
    return Checkpoint(id, path, whole, trained=True)
