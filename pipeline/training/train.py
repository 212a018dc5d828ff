"""Training of the bridge on a dataset version, from cached features only, into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from model.backbone import Backbone
from model.bridge import Bridge
from model.device import default_device
from model.foley import build_bridge
from model.training.divergence import DivergedError
from model.training.trainer import FeatureBatch, Progress, Trainer
from model.video_encoder import VideoEncoder
from pipeline.training.batches import DatasetFeatures, feature_batch, steps_of_batches
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from pipeline.training.training_log import TrainingLog
from warehouse import FeatureSet, FoleyError
from warehouse.files import file_lock, identity_hash

if TYPE_CHECKING:
    from accelerate import PartialState

TRAINING_VERSION = 2  # raised when the code changes what training gives
SCALE_BATCHES = 64  # batches from which the scale of the video features is measured


def train(
    data: DatasetFeatures,
    on_progress: Callable[[Progress], None],
    seed: int = 0,
    processes: PartialState | None = None,
) -> Checkpoint:
    """Train the preset's bridge on the `train` split, or find the checkpoint of the same training.

    A training that was stopped, or killed, goes on from where its last state was kept and gives the
    same weights. Without a `val` split nothing is measured on the way.

    Args:
        data: the dataset version, its features and the preset.
        on_progress: called after every optimiser step, in the main process.
        seed: of initialisation, order of clips and noise.
        processes: those that train together, of which each calls this; None for this one alone.

    Raises:
        FoleyError: the split holds no clip with features, or training diverged; the message names
            the last good checkpoint.
    """
    wh, preset = data.wh, data.preset
    settings = preset.train.model_copy(update={"seed": seed})
    features = data.split("train")
    identity = _identity(data, features, seed)
    id = identity_hash(identity)
    main = processes is None or processes.is_main_process
    with file_lock(wh.lock_path(f"train-{id}")) if main else nullcontext():
        if processes is not None:
            processes.wait_for_everyone()
        if trained_before := find_checkpoint(wh, id):
            return trained_before
        backbone = Backbone.from_pretrained(preset)
        backbone.to(processes.device if processes is not None else default_device())
        bridge = _fresh_bridge(backbone, features, seed)
        trainer = Trainer(backbone, bridge, settings, processes)
        count = ceil(settings.validation_clips / settings.batch_size)
        validation = data.batches("val", count) if data.dataset.clip_ids("val") else []
        log = TrainingLog(data, id, identity)
        log.resume(trainer)
        steps = steps_of_batches(features, settings, trainer.mine, trainer.step)
        _take_steps(trainer, steps, validation, log, on_progress)
        if main:
            log.finish(trainer)
        if processes is not None:
            processes.wait_for_everyone()
    done = find_checkpoint(wh, id)
    assert done is not None
    return Checkpoint(id, done.path, done.record, trained=True)


def _identity(data: DatasetFeatures, features: FeatureSet, seed: int) -> dict[str, Any]:
    """What the trained weights depend on; their id is its hash."""
    preset = data.preset
    return {
        "version": TRAINING_VERSION,
        "dataset": data.dataset.version,
        "features": features.id,
        "preset": preset.name,
        "backbone": Backbone.revision(preset),
        "encoder": VideoEncoder.revision(preset),
        "bridge": preset.bridge.model_dump(),
        "training": preset.train.recipe(),
        "seed": seed,
    }


def _take_steps(
    trainer: Trainer,
    steps: Iterator[list[FeatureBatch]],
    validation: Sequence[FeatureBatch],
    log: TrainingLog,
    on_progress: Callable[[Progress], None],
) -> None:
    """Take the steps that are left; of processes that train together, the main one alone writes."""
    settings, main = trainer.settings, trainer.processes.rank == 0
    logged = trainer.step  # last step whose checkpoint and figures are kept, where they were due
    try:
        while trainer.step < settings.steps:
            progress = trainer.train_step(next(steps))
            due = progress.step == settings.steps or progress.step % settings.validate_every == 0
            if due and validation:
                progress = replace(progress, validation=trainer.validate(validation))
            if main:
                log.step(trainer, progress)
                logged = trainer.step
                on_progress(progress)
    except DivergedError as error:
        good = log.checkpoints.last_good(error.good)
        left = f"the last good checkpoint is {good}" if good else "no earlier checkpoint is left"
        raise FoleyError(
            f"training diverged at {error}; {left}. Try a lower learning rate"
        ) from None
    except BaseException:
        if main and trainer.whole and logged == trainer.step:
            log.keep_state(trainer)  # stopped by a person or a signal: go on from here
        raise


def _fresh_bridge(backbone: Backbone, features: FeatureSet, seed: int) -> Bridge:
    """An untrained bridge, inserted, that knows the scale of the video features."""
    torch.manual_seed(seed)
    bridge = build_bridge(backbone, backbone.preset.video.width)
    batches = features.batches(backbone.preset.train.batch_size, drop_last=False)
    first = [
        feature_batch(arrays).video.flatten(0, -2) for arrays in islice(batches, SCALE_BATCHES)
    ]
    bridge.fit_scale(torch.cat(first))
    bridge.to(backbone.device).insert(backbone.dit)
    return bridge
