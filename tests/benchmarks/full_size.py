"""The paper's system at full size through the command, with random weights: time and memory a step.

`uv run python -m tests.benchmarks full_size` writes weights in the names, shapes and type (float32)
in which they are published (7.3 GB, in the folder for temporary files; 13 GB with scorers), and
five clips of 3 to 25 s, and walks them through `foley models check`, `curate`, `train` (2 steps),
`generate` (2 s) and `evaluate`. Sounds and figures are noise: what is measured is that it runs, how
long, and in how much memory.

`python -m tests.benchmarks.full_size --depth 2 --scorers` walks models of two blocks, with
ImageBind and Audiobox. A CPU without instructions for bf16 trains four times as fast with
`--precision fp32`, in more memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import torch

from model.backbone import Backbone
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import build_bridge
from model.presets.preset import Preset, load_preset
from model.presets.settings import Precision
from model.weights.files import BRIDGE_FILE
from tests.benchmarks.figures import Figure, figure
from tests.model.hub.published import (
    write_audiobox,
    write_backbone,
    write_imagebind,
    write_t5,
    write_vjepa2,
)
from tests.pipeline.media.samples import clicks, write_sample

ROOT = Path(__file__).parents[2]
#: Seconds and split; two are for test, of which each is "another clip" of the other.
CLIPS = ((3.0, "train"), (25.0, "train"), (7.3, "val"), (5.0, "test"), (3.5, "test"))
FPS = 24
#: What is small is what a CPU has no time for: frames a second, clips a step, steps of sampling.
PRESET = """
[video]
fps = 2
[train]
batch_size = 1
micro_batches = 2
validation_clips = 1
precision = "{precision}"
[sample]
steps = 2
"""
NO_SCORERS = "networks = []\nscores = { imagebind = false, audiobox = false }\n"
LOOK_EVERY = 0.02  # seconds between two looks at the memory of a command


@dataclass(frozen=True)
class Sizes:
    """What is walked: the paper's models, or some of their blocks to try the benchmark itself."""

    depth: int | None = None
    scorers: bool = False
    precision: Precision = "bf16"  # of training


def full_size() -> Iterator[Figure]:
    """Seconds and peak memory of every command, with the models that make features alone."""
    yield from walk(Sizes())


def walk(sizes: Sizes) -> Iterator[Figure]:
    """Write weights and clips, and run the commands over them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        preset = write_preset(folder, sizes)
        write_clips(folder / "clips")
        options = ["--preset", str(preset.folder), "--weights", str(preset.weights)]
        home = ["--home", str(folder / "home")]
        # exit code 1: the networks of evaluation are missing
        yield from _command("models check", [*options], ok=(0, 1))
        yield from _command("curate", [str(folder / "clips"), *options, *home])
        yield from _command("curate", [str(folder / "clips"), *options, *home], " again")
        yield from _command("train", ["--steps", "2", *options, *home])
        again = ["--steps", "2", "--set", "train.checkpointing=true"]
        yield from _command("train", [*again, *options, *home], " with checkpointing")
        bridge = next((folder / "home/checkpoints").glob("*/bridge.safetensors"))
        yield from _generate(folder, ["--checkpoint", str(bridge), *options, *home])
        yield from _command("evaluate", [*options, *home])


def full_size_generate() -> Iterator[Figure]:
    """Seconds and peak memory of `generate` alone, also in low memory; the bridge is random."""
    with TemporaryDirectory() as name:
        preset = write_preset(Path(name), Sizes())
        bridge = build_bridge(Backbone.from_pretrained(preset))
        save_bridge(preset.weights / BRIDGE_FILE, bridge, BridgeFacts.of(preset, "v", 2.0))
        del bridge  # from the memory that the commands share with this process
        options = ["--preset", str(preset.folder), "--weights", str(preset.weights)]
        yield from _generate(Path(name), [*options, "--home", f"{name}/home"])


def _generate(folder: Path, options: list[str]) -> Iterator[Figure]:
    short = write_clip(folder / "short.mp4", 2.0)
    made = [str(short), "--out", str(folder / "made.mp4"), "--prompt", "rain on tin", *options]
    yield from _command("generate", [*made, "--overwrite"])
    yield from _command("generate", [*made, "--overwrite", "--low-memory"], " in low memory")


def write_preset(folder: Path, sizes: Sizes) -> Preset:
    """A preset that is the paper's but for what takes long, and its models' random weights."""
    own, weights = folder / "preset", folder / "weights"
    own.mkdir()
    (own / "preset.toml").write_text(
        'base = "paper"\n'
        + ("" if sizes.scorers else NO_SCORERS)
        + PRESET.format(precision=sizes.precision)
    )
    config = load_preset("paper").backbone_config
    if sizes.depth:
        config["model"]["diffusion"]["config"]["depth"] = sizes.depth
    (own / "backbone.json").write_text(json.dumps(config))
    preset = load_preset(str(own), weights)
    depth, dtype = sizes.depth, torch.float32
    write_backbone(preset, dtype=dtype)
    write_t5(preset, dtype, **({"num_layers": depth} if depth else {}))
    write_vjepa2(preset, dtype, **({"num_hidden_layers": depth} if depth else {}))
    if sizes.scorers:
        write_imagebind(preset, dtype)
        write_audiobox(preset, dtype)
    return preset


def write_clips(folder: Path) -> None:
    """Clips of 3 to 25 s, with prompts and splits."""
    folder.mkdir()
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "prompt", "split"))
        for seconds, split in CLIPS:
            path = write_clip(folder / f"{split}{seconds:g}.mp4", seconds)
            rows.writerow((path.name, f"clicks for {seconds:g} seconds", split))


def write_clip(path: Path, seconds: float) -> Path:
    """A picture with clicks twice a second."""
    times = (np.arange(round(seconds * FPS)) / FPS).tolist()
    write_sample(path, times, clicks(seconds, np.arange(0.2, seconds, 0.5).tolist()))
    return path


def _command(
    name: str, arguments: list[str], again: str = "", ok: tuple[int, ...] = (0,)
) -> Iterator[Figure]:
    """Run a command; its seconds, and the largest memory (RSS) that its process had at a time.

    Pages of weights that are mapped from their files are in that, though the system can take them
    back; `of that its own` is what it cannot. Processes that read media are not: 1 GB each at most.
    """
    command = [sys.executable, "-m", "foley.cli.main", *name.split(), *arguments]
    environment = os.environ | {"PREFECT_LOGGING_LEVEL": "WARNING"}
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr, env=environment)
    peak = own = 0.0
    while process.poll() is None:
        time.sleep(LOOK_EVERY)
        peak, own = (
            max(peak, _memory(process.pid, "VmHWM")),
            max(own, _memory(process.pid, "RssAnon")),
        )
    if process.returncode not in ok:
        raise RuntimeError(f"foley {name} ended with {process.returncode}")
    values = {
        "time": (time.perf_counter() - started, "s"),
        "peak memory": (peak, "GB"),
        "of that its own": (own, "GB"),
    }
    for what, (value, unit) in values.items():
        yield figure(f"full size, foley {name}{again}: {what}", round(value, 2), unit)


def _memory(process: int, field: str) -> float:
    """GB that /proc has under `field` of a process; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(field):
                return float(line.split()[1]) / 1e6
    return 0.0


def main() -> None:
    """The walk, of the sizes that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, help="blocks of DiT, T5 and V-JEPA2")
    parser.add_argument("--scorers", action="store_true", help="with ImageBind and Audiobox")
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16")
    for found in walk(Sizes(**vars(parser.parse_args()))):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
