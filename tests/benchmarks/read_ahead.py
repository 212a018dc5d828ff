"""How long training waits for data: consumers that sleep as long as a GPU would compute.

Features of the paper's size (12 s, batches of 12) with frame and with grid8 pooling, few clips,
from the page cache. A micro-batch's time on the device is its FLOPs at 40% of an H100's dense ones:
41 and 159 ms. One consumer, and eight at once, each a process as in training; what one takes of a
core says how many cores eight of them want. Nothing is copied to a device.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model.presets.preset import load_preset
from model.sampling.canvas import Canvas
from model.training.feature_batch import FeatureBatch
from pipeline.curation.policy import Policy, select
from pipeline.features.columns import FEATURE_COLUMNS
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from pipeline.training.batches import micro_batches
from pipeline.training.read_ahead import AHEAD, ReadAhead
from tests.benchmarks.figures import Figure, figure
from warehouse import FeatureSet, Warehouse, array_field, to_bytes
from warehouse.datasets.feature_build import FeatureRequest, build

BATCHES = 40
CONSUMERS = 8


@dataclass(frozen=True)
class Size:
    """Tokens a frame, clips on disk, and seconds of a micro-batch on the device."""

    cells: int
    clips: int
    seconds: float


SIZES = {"frame": Size(1, 480, 0.041), "grid8": Size(64, 48, 0.159)}


class Random(Stage):
    """Arrays of the paper's size, of one random clip."""

    name, batch_size = "random", 16

    def __init__(self, cells: int) -> None:
        shapes = {
            "video_tokens": (96, cells, 1024),
            "latent_mean": (64, 259),
            "latent_scale": (64, 259),
            "text_tokens": (16, 768),
        }
        counts = {"n_video_tokens": 96, "n_latents": 259, "n_text_tokens": 16}
        self.schema = pa.schema(
            [
                *(array_field(name, "float16", shape, "random") for name, shape in shapes.items()),
                *(pa.field(name, pa.int32()) for name in counts),
                pa.field("audio_seconds", pa.float64()),
            ]
        )
        rng = np.random.default_rng(0)
        self.row = {
            name: to_bytes(rng.random(shape).astype("f2")) for name, shape in shapes.items()
        }
        self.row |= counts | {"audio_seconds": 12.0}

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed(self.row) for _ in clips]


def waiting() -> Iterator[Figure]:
    """Share of a step that is waited for data, by one consumer and by several at once."""
    cores = len(os.sched_getaffinity(0))
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            features = _features(Path(folder), size)
            for _ in islice(_batches(features, 0, 1), len(features) // 12):
                pass  # into the page cache
            for count in (1, CONSUMERS):
                shares, cpu = _together(features.path, size, count)
                of = f"{name}, {count} consumers on {cores} cores"
                yield figure(f"{of}: waited", round(float(np.mean(shares)), 4), "of a step")
                yield figure(f"{of}: read", round(cpu * 1000, 1), "ms of CPU a micro-batch")


def _together(features: Path, size: Size, count: int) -> tuple[list[float], float]:
    """Share of the time that each consumer waited, and the mean seconds of CPU a micro-batch."""
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(count), context.Queue()
    consumers = [
        context.Process(target=_consume, args=(features, size, (rank, count), ready, found))
        for rank in range(count)
    ]
    for consumer in consumers:
        consumer.start()
    shares, cpu = zip(*(found.get(timeout=300) for _ in consumers), strict=True)
    for consumer in consumers:
        consumer.join()
    return list(shares), float(np.mean(cpu))


def _consume(path: Path, size: Size, place: tuple[int, int], ready: Any, found: Any) -> None:
    """Put the share of the time that one consumer waited, and its seconds of CPU a micro-batch."""
    with ReadAhead(_batches(FeatureSet.open(path), *place)) as ahead:
        for _ in range(AHEAD):
            next(ahead)
        ready.wait()  # for the others
        before, began, cpu = ahead.waited, time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            next(ahead)
            time.sleep(size.seconds)
        seconds = time.perf_counter() - began
        found.put(((ahead.waited - before) / seconds, (time.process_time() - cpu) / BATCHES))


def _batches(features: FeatureSet, rank: int, count: int) -> Iterator[FeatureBatch]:
    """Micro-batches of one of so many processes."""
    preset = load_preset("paper")
    settings = preset.train.model_copy(update={"micro_batches": count})
    return micro_batches(features, settings, Canvas.of(preset), [rank], 0)


def _features(folder: Path, size: Size) -> FeatureSet:
    media = folder / "media"
    media.mkdir()
    rows = [
        {"clip_id": str(i), "path": str(media / str(i)), "source": "random"}
        for i in range(size.clips)
    ]
    for row in rows:
        Path(row["path"]).write_text(row["clip_id"])
    wh = Warehouse(folder / "home")
    wh.ingest(pa.Table.from_pylist(rows))
    stage = Random(size.cells)
    named = fingerprints([stage])
    work = plan(wh, stage, named)
    for batch in work.batches:
        run_batch(wh, stage, work, batch)
    dataset = select(wh, named, Policy("all", 1, ()))
    return build(wh, FeatureRequest(dataset, named, FEATURE_COLUMNS, split=None))
