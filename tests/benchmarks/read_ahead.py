"""How long training waits for data: a consumer that sleeps as long as a GPU would compute.

Features of the paper's size (12 s, batches of 12) with frame and with grid8 pooling, few clips,
from the page cache. A micro-batch's time on the device is its FLOPs at 40% of an H100's dense ones:
41 and 159 ms. One consumer reads; what its thread takes of a core says how many cores eight of them
want. Nothing is copied to a device.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

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
    """Share of a step that is waited for data, read ahead and read when asked for."""
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            features = _features(Path(folder), size)
            _epoch(features)  # into the page cache
            alone, _ = _share(_batches(features), size)
            with ReadAhead(_batches(features)) as ahead:
                for _ in range(AHEAD):
                    next(ahead)
                share, cpu = _share(ahead, size)
        beside = f"{alone:.3f} where it is read when asked for"
        yield figure(f"{name} waited", round(share, 4), "of a step", beside, share / alone)
        yield figure(f"{name} read", round(cpu * 1000, 1), "ms of CPU a micro-batch")


def _epoch(features: FeatureSet) -> None:
    for _ in islice(_batches(features), len(features) // 12):
        pass


def _batches(features: FeatureSet) -> Iterator[FeatureBatch]:
    preset = load_preset("paper")
    settings = preset.train.model_copy(update={"micro_batches": 1})
    return micro_batches(features, settings, Canvas.of(preset), range(1), 0)


def _share(batches: Iterator[FeatureBatch], size: Size) -> tuple[float, float]:
    """Share of the time that was waited, and seconds of CPU a batch."""
    waited, began, cpu = 0.0, time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(size.seconds)
    return waited / (time.perf_counter() - began), (time.process_time() - cpu) / BATCHES


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
