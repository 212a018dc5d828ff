"""Memory of the stages with a model at full size, beside what they say that they need.

Random weights in the published layouts, in float32, one model at a time (5 GB of disk at most);
each stage runs over one clip of 12 s, in a process of its own, at the full rate of pictures.

`python -m tests.benchmarks.stage_memory imagebind` measures one stage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from model.presets.preset import Preset, load_preset
from pipeline.curation.sources import folder_source
from pipeline.curation.stage_graph import StageGraph
from pipeline.stages.engine import fingerprints, plan, run_batch
from tests.benchmarks.figures import Figure, figure
from tests.benchmarks.full_size import ROOT, write_clip
from tests.model.hub.published import (
    write_audiobox,
    write_backbone,
    write_imagebind,
    write_t5,
    write_vjepa2,
)
from warehouse import Warehouse

SECONDS = 12.0
#: What writes the weights that a stage reads.
WRITERS: dict[str, Callable[[Preset], object]] = {
    "imagebind": partial(write_imagebind, dtype=torch.float32),
    "audiobox": partial(write_audiobox, dtype=torch.float32),
    "video_tokens": partial(write_vjepa2, dtype=torch.float32),
    "audio_latents": partial(write_backbone, dtype=torch.float32),
    "text_embeddings": partial(write_backbone, dtype=torch.float32),
}


def stage_memory() -> Iterator[Figure]:
    """GB that each stage took at its peak (RSS), against what it states."""
    for stage in WRITERS:
        yield from _measured(stage)


def _measured(name: str) -> Iterator[Figure]:
    with TemporaryDirectory() as folder:
        preset = load_preset("paper", Path(folder, "weights"))
        write_t5(preset, torch.float32)  # whose hash is a part of the backbone's
        WRITERS[name](preset)
        write_clip(Path(folder, "clip.mp4"), SECONDS)
        command = [sys.executable, "-m", "tests.benchmarks.stage_memory", name, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        took, stated = json.loads(done.stdout.splitlines()[-1])
    yield figure(
        f"full size, stage {name}: peak memory", round(took, 2), "GB", "stated", took / stated
    )


def _run(name: str, folder: Path) -> None:
    """Run the stage, and those that it reads of, in this process; print GB taken and stated."""
    from resource import RUSAGE_SELF, getrusage

    graph = StageGraph(load_preset("paper", folder / "weights"))
    stages = [stage for stage in graph.stages if stage.name in ("probe", "silence", name)]
    wh, hashes = Warehouse(folder / "home"), fingerprints(stages)
    wh.ingest(folder_source(folder).clips)
    for stage in stages:
        work = plan(wh, stage, hashes)
        [batch] = work.batches
        result = run_batch(wh, stage, work.header(), batch)
        assert result.passed == 1, wh.rows(stage.name, hashes[stage.name]).to_pylist()
    stated = stages[-1].memory
    print(json.dumps([getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9, stated / 1e9]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _run(sys.argv[1], Path(sys.argv[2]))
    else:
        for found in _measured(sys.argv[1]):
            print(json.dumps(found))
