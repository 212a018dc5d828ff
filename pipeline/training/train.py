"""Training of the bridge on a dataset version, from cached features only, into a checkpoint."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.backbone import Backbone
from model.bridge import Bridge
from model.bridge_file import BridgeFacts
from model.foley import build_bridge
from model.presets.settings import TrainSettings
from model.training.processes import ALONE, Processes
from model.training.trainer import Progress, Trainer
from model.video_encoder import VideoEncoder
from model.weights.device import choose_device
from model.weights.load import load_strict, read_weights
from pipeline.training.batches import DatasetFeatures, epoch_facts, micro_batches
from pipeline.training.checkpoints import Checkpoint, TrainingCheckpoints, find_checkpoint
from pipeline.training.meter import Curves, Meter, clip_flops, device_peak
from pipeline.training.parent import Parent
from pipeline.training.read_ahead import ReadAhead
from pipeline.training.states import states_in
from pipeline.training.steps import TrainingSteps
from pipeline.training.training_log import TrainingLog
from pipeline.training.video_scale import video_scale
from warehouse import FeatureSet
from warehouse.datasets.versions import UNCURATED
from warehouse.files import Json, file_lock, identity_hash

TRAINING_VERSION = 3  # raised when the code changes what training gives


def train(
    data: DatasetFeatures,
    on_progress: Callable[[Progress], None],
    seed: int = 0,
    processes: Processes = ALONE,
    parent: Parent | None = None,
) -> Checkpoint:
    """Train the preset's bridge on the `train` split, or find the checkpoint of the same training.

    A training that was stopped, or killed, goes on from its last state to the same weights. Without
    a `val` split of two clips nothing is measured on the way; with `train.patience` the best
    weights by validation are written.

    Args:
        data: the dataset version, its features and the preset.
        on_progress: called after every optimiser step, in the main process.
        seed: of initialisation, order of clips and noise.
        processes: those that train together, of which each calls this.
        parent: the bridge to start from; None for an untrained one.

    Raises:
        FoleyError: no clip of the split has features, no validation for early stopping, no such
            tracker, a parent that does not fit, or divergence, with the name of the last good one.
        StoppedError: one of the processes was told to stop.
    """
    wh, settings = data.wh, data.preset.train.model_copy(update={"seed": seed})
    features, validation = data.split("train"), data.validation()
    identity = _identity(data, features, settings, parent)
    id, main = identity_hash(identity), processes.rank == 0
    with file_lock(wh.lock_path(f"train-{id}")) if main else nullcontext():
        if main:
            video_scale(features, wh.tmp)  # measured once, while the others wait
        processes.wait()
        if trained_before := find_checkpoint(wh, id):
            return trained_before
        if parent and states_in(wh.folder("checkpoints") / id):
            parent = replace(parent, optimiser=False)  # it goes on with its own
        curves = Curves(wh.folder("checkpoints") / id, settings.tracker)
        trainer = _new_trainer(data, features, settings, processes, parent)
        log = _new_log(data, features, identity, trainer, curves)
        log.resume(trainer)
        batches = micro_batches(features, settings, data.canvas, trainer.mine, trainer.step)
        with ReadAhead(batches) as ahead:
            TrainingSteps(trainer, validation, log, on_progress).take(ahead)
        if main:
            log.finish(trainer)
        processes.wait()
    done = find_checkpoint(wh, id)
    assert done is not None
    return replace(done, trained=True)


def _new_trainer(
    data: DatasetFeatures,
    features: FeatureSet,
    settings: TrainSettings,
    processes: Processes,
    parent: Parent | None,
) -> Trainer:
    """The trainer before its first step, with its models."""
    if parent is not None and parent.optimiser:
        parent.check_state()
    half = settings.precision == "bf16"
    backbone = Backbone.from_pretrained(data.preset, torch.bfloat16 if half else torch.float32)
    backbone.to(choose_device())
    bridge = _new_bridge(backbone, features, settings.seed, parent, data.wh.tmp)
    trainer = Trainer(backbone, bridge, settings, processes)
    if parent is not None and parent.optimiser:
        trainer.begin_with(parent.state())
    return trainer


def _new_log(
    data: DatasetFeatures, features: FeatureSet, identity: Json, trainer: Trainer, curves: Curves
) -> TrainingLog:
    """The log of a training, which knows what its records and bridge files say."""
    seconds = trained_seconds(features)
    facts = BridgeFacts.of(data.preset, trainer.backbone.objective, seconds)
    about = _uses(data) | {"epoch": epoch_facts(features, trainer.settings, data.canvas)}
    checkpoints = TrainingCheckpoints(data.wh, identity_hash(identity), identity | about, facts)
    peak, world = device_peak(), trainer.processes.world
    meter = Meter(clip_flops(data), peak and peak * world)
    return TrainingLog(data, checkpoints, meter, curves)


def _identity(
    data: DatasetFeatures, features: FeatureSet, settings: TrainSettings, parent: Parent | None
) -> Json:
    """What the trained weights depend on; their id is its hash."""
    preset = data.preset
    return (parent.identity if parent else {}) | {
        "version": TRAINING_VERSION,
        "dataset": data.dataset.version,
        "features": features.id,
        "preset": preset.name,
        "backbone": Backbone.revision(preset),
        "encoder": VideoEncoder.revision(preset),
        "bridge": preset.bridge.model_dump(),
        "training": settings.recipe(),
        "canvas_seconds": preset.window.canvas_seconds,
        "seed": settings.seed,
    }


def _uses(data: DatasetFeatures) -> Json:
    """What a record says beside: an ablation's bridge is not what one generates with."""
    ablation = data.ablation or data.subset == "ablation" or data.dataset.role == UNCURATED
    return {"subset": data.subset, "ablation": ablation}


def trained_seconds(features: FeatureSet) -> float:
    """The length that nine in ten clips do not exceed: how long a sound the bridge can make."""
    seconds = features.read(columns=["audio_seconds"])["audio_seconds"]
    return round(float(np.quantile(seconds, 0.9, method="inverted_cdf")), 3)


def _new_bridge(
    backbone: Backbone, features: FeatureSet, seed: int, parent: Parent | None, tmp: Path
) -> Bridge:
    """The bridge that training begins with, inserted; it knows the scale of the video features."""
    torch.manual_seed(seed)
    bridge = build_bridge(backbone)
    if parent is not None:  # with the scale that its weights were trained with
        weights = read_weights(parent.checkpoint.path)
        load_strict(bridge, {k: v.float() for k, v in weights.items()}, parent.checkpoint.path)
    else:
        bridge.set_scale(*video_scale(features, tmp))
    bridge.to(backbone.device).insert(backbone.dit)
    return bridge
