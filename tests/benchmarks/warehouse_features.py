"""Feature reading: a FeatureSet beside a numpy memmap, WebDataset and Lance on the same data.

In alternating rounds, clips of 191 kB in batches of 12 by one thread, the epoch shuffled: fully for
memmap and Lance, by row groups and a window for the FeatureSet, by a buffer of 256 clips for
WebDataset. The grown FeatureSet is that of a sixth version, with shards of those before it. Cold
means that the files' pages were dropped from the page cache. WebDataset and Lance are no
dependencies: their lines are there when `webdataset` and `lance` can be imported.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from warehouse import FeatureSet, Warehouse, array_field, to_bytes
from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_build import FeatureRequest, build

Figure = dict[str, Any]
ReadEpoch = Callable[[int], int]
CLIPS, BATCH, ROUNDS = 2000, 12, 5
SHAPE = (32, 16, 186)  # float16: 190,464 bytes


class Arrays(Stage):
    """Random arrays of the size of a clip's features."""

    name, batch_size = "arrays", 256
    schema = pa.schema([array_field("tokens", "float16", SHAPE, "random numbers")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed({"tokens": to_bytes(array(c["clip_id"]))}) for c in clips]


def array(clip_id: str) -> np.ndarray:
    """The clip's array [*SHAPE]."""
    return np.random.default_rng(int(clip_id)).standard_normal(SHAPE, np.float32).astype(np.float16)


def features() -> Iterator[Figure]:
    """MB/s of every layout, cold and hot, and its ratio to the memmap.

    Writing; growth of resident memory.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epochs, files = _layouts(folder)
        size = CLIPS * int(np.prod(SHAPE)) * 2 / 1e6
        for state in ("cold", "hot"):
            speeds: dict[str, list[float]] = {layout: [] for layout in epochs}
            for number in range(ROUNDS + 1):
                for layout, epoch in epochs.items():
                    if state == "cold":
                        _drop(files)
                    begun = time.perf_counter()
                    read = epoch(number)
                    speed = size / (time.perf_counter() - begun)
                    assert read * BATCH >= CLIPS - BATCH
                    if number:
                        speeds[layout].append(speed)
            yield from _figures(state, speeds)
        yield _memory(folder)


def _figures(state: str, speeds: dict[str, list[float]]) -> Iterator[Figure]:
    for layout, found in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(found, speeds["memmap"], strict=True))
        yield {
            "name": f"features {layout} {state}",
            "value": round(statistics.median(found), 1),
            "unit": "MB/s",
            "better": "higher",
            "against": "numpy memmap, full permutation, same data and run",
            "ratio": round(ratio, 3),
        }


def _layouts(folder: Path) -> tuple[dict[str, ReadEpoch], list[Path]]:
    """Write the data in every layout.

    Returns a function a layout that reads an epoch, and all files.
    """
    built = _feature_set(folder)
    grown = _feature_set(folder, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    table = np.lib.format.open_memmap(folder / "all.npy", "w+", np.float16, (CLIPS, *SHAPE))
    for i in range(CLIPS):
        table[i] = array(str(i))
    table.flush()
    del table
    epochs: dict[str, ReadEpoch] = {
        "memmap": lambda seed: _read_memmap(folder / "all.npy", seed),
        "FeatureSet": lambda seed: _read_features(built, seed),
        "FeatureSet, grown": lambda seed: _read_features(grown, seed),
    }
    if find_spec("webdataset"):
        epochs["WebDataset"] = _webdataset(folder)
    if find_spec("lance"):
        epochs["Lance"] = _lance(folder)
    os.sync()
    return epochs, [path for path in folder.rglob("*") if path.is_file()]


def _read_features(features: FeatureSet, seed: int) -> int:
    return sum(1 for _ in features.batches(Epoch(BATCH, seed), columns=["tokens"]))


def _feature_set(folder: Path, shares: Sequence[float] = (1.0,)) -> FeatureSet:
    """The features of the last of several versions, which have these shares of the clips."""
    media = folder / "media"
    media.mkdir(exist_ok=True)
    rows = [
        {"clip_id": str(i), "path": str(media / str(i)), "source": "random"} for i in range(CLIPS)
    ]
    for row in rows:
        Path(row["path"]).write_text(row["clip_id"])
    wh = Warehouse(folder / f"home{len(shares)}")
    wh.ingest(pa.Table.from_pylist(rows))
    stage = Arrays()
    fps = fingerprints([stage])
    work = plan(wh, stage, fps)
    for batch in work.batches:
        run_batch(wh, stage, work, batch)
    ids = [row["clip_id"] for row in rows]
    parts = [ids[: round(share * CLIPS)] for share in shares]
    versions = [select(wh, fps, Policy("all", 1, ()), clip_ids=part) for part in parts]
    sets = [build(wh, FeatureRequest(v, fps, ["tokens"], split=None)) for v in versions]
    return sets[-1]


def _read_memmap(path: Path, seed: int) -> int:
    table = np.load(path, mmap_mode="r")
    order = np.random.default_rng(seed).permutation(CLIPS)
    return sum(1 for i in range(0, CLIPS - BATCH + 1, BATCH) if table[order[i : i + BATCH]].shape)


def _webdataset(folder: Path) -> ReadEpoch:
    wds: Any = import_module("webdataset")

    pattern = str(folder / "web-%04d.tar")
    with wds.ShardWriter(pattern, maxcount=256, verbose=0) as writer:
        for i in range(CLIPS):
            writer.write({"__key__": str(i), "bin": to_bytes(array(str(i)))})
    shards = [str(path) for path in sorted(folder.glob("web-*.tar"))]

    def epoch(seed: int) -> int:
        order = [shards[i] for i in np.random.default_rng(seed).permutation(len(shards))]
        stream = wds.WebDataset(order, shardshuffle=False, empty_check=False).shuffle(
            256, seed=seed
        )
        count, batch = 0, []
        for sample in stream:
            batch.append(np.frombuffer(sample["bin"], np.float16).reshape(SHAPE))
            if len(batch) == BATCH:
                count, batch = count + bool(np.stack(batch).size), []
        return count

    return epoch


def _lance(folder: Path) -> ReadEpoch:
    lance: Any = import_module("lance")

    width = int(np.prod(SHAPE)) * 2
    for begin in range(0, CLIPS, 250):
        raw = b"".join(to_bytes(array(str(i))) for i in range(begin, begin + 250))
        column = pa.Array.from_buffers(pa.binary(width), 250, [None, pa.py_buffer(raw)])
        lance.write_dataset(
            pa.table({"tokens": column}), folder / "all.lance", mode="append" if begin else "create"
        )
    dataset = lance.dataset(folder / "all.lance")

    def epoch(seed: int) -> int:
        order = np.random.default_rng(seed).permutation(CLIPS)
        count = 0
        for i in range(0, CLIPS - BATCH + 1, BATCH):
            found = dataset.take(order[i : i + BATCH].tolist(), columns=["tokens"])["tokens"]
            rows = [np.frombuffer(value.as_buffer(), np.float16) for value in found]
            count += bool(np.stack(rows).reshape(-1, *SHAPE).size)
        return count

    return epoch


def _drop(files: list[Path]) -> None:
    """Drop the files' pages from the page cache."""
    for path in files:
        with open(path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _memory(folder: Path) -> Figure:
    """Growth of the peak resident memory over an epoch, in a process of its own."""
    path = next((folder / "home1" / "features").iterdir())
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        features = FeatureSet.open(path)
        next(features.batches(Epoch(BATCH)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in features.batches(Epoch(BATCH)):
            pass
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, str(grown).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    grown = int(os.read(reader, 64)) / 1024
    whole = CLIPS * int(np.prod(SHAPE)) * 2 / 2**20
    return {
        "name": "features memory growth",
        "value": round(grown, 1),
        "unit": "MiB",
        "better": "lower",
        "against": "size of the data",
        "ratio": round(grown / whole, 4),
    }


def main() -> None:
    """Print one JSON line a figure."""
    import json

    for figure in features():
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
