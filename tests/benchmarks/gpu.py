"""The paper's model on a GPU, with random weights: training at batch 12, and making 12 s of sound.

`uv run python -m tests.benchmarks gpu` writes its figures to docs/figures/gpu-results.json, with
the card's name. Weights go the way of a person's: written in their published layouts, and loaded
from there. Where there is no CUDA device it says so in a line and leaves the file alone.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.bridge_file import BridgeFacts, save_bridge
from model.foley import build_bridge
from model.presets.preset import Preset, load_preset
from model.training.feature_batch import FeatureBatch
from model.training.trainer import Trainer
from pipeline.evaluation.results import machine, versions
from pipeline.generation.asking import Watched
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import sample_settings
from pipeline.generation.provenance import code_revision
from pipeline.generation.requests import Request
from tests.model.hub.published import write_backbone, write_t5, write_vjepa2
from tests.pipeline.media.samples import write_sample

Figure = dict[str, Any]
RESULTS = Path(__file__).parents[2] / "docs/figures/gpu-results.json"
COMMAND = "uv run python -m tests.benchmarks gpu"
#: Name, unit, which way is better, and what is asked.
FIGURES: list[tuple[str, str, str, str | None]] = [
    *(
        (f"training step{kind}: {name}", unit, better, target)
        for kind in ("", ", compiled")
        for name, unit, better, target in (
            ("time", "ms", "lower", None),
            ("clips", "clips/s", "higher", None),
            ("FLOPs of forward and backward", "TFLOP", "lower", None),
            ("share of the card's dense bf16 peak", "x", "higher", ">= 0.45"),
            ("peak memory", "GB", "lower", "< 24"),
        )
    ),
    ("DiT forward with the bridge, over the bare one", "x", "lower", "<= 1.18"),
    (
        "DiT forward with the bridge, sampling with guidance, over the bare one",
        "x",
        "lower",
        "<= 1.10",
    ),
    *(
        (f"12 s of sound{kind}: {name}", unit, "lower", target)
        for kind in ("", ", compiled")
        for name, unit, target in (
            ("frames and video tokens", "s", None),
            ("sampling and decoding", "s", None),
            ("all, models loaded", "s", "< 2"),
            ("peak memory", "GB", "< 8"),
        )
    ),
]
#: Dense bf16 TFLOP/s as NVIDIA's data sheets give them; the first that is in the card's name
#: counts.
PEAKS = {
    "B200": 2250.0, "H200": 989.4, "H100 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.4,
    "A100": 312.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "A10": 125.0, "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What is run: the paper's, or less to try the benchmark itself."""

    batch: int = 12
    seconds: float = 12.0
    steps: int = 100
    rounds: int = 10


def gpu() -> Iterator[Figure]:
    """Measure on the CUDA device there is, and write docs/figures/gpu-results.json."""
    if not torch.cuda.is_available():
        print("gpu: torch finds no CUDA device here, so nothing is measured", file=sys.stderr)
        return
    with TemporaryDirectory() as folder:
        preset = load_preset("paper", Path(folder))
        for write in (write_backbone, write_t5, write_vjepa2):
            write(preset)
        found: list[Figure] = []
        for found in measured(preset, "cuda", Sizes()):
            write_results(RESULTS, found, torch.cuda.get_device_name())
    yield from found


def measured(
    preset: Preset, device: str, sizes: Sizes, backend: str = "inductor"
) -> Iterator[list[Figure]]:
    """All figures, again after each part; those of a part that failed say why.

    `backend` is torch.compile's.
    """
    parts = [
        ("training step:", lambda: _training(preset, device, sizes, None)),
        ("training step, compiled:", lambda: _training(preset, device, sizes, backend)),
        ("DiT forward", lambda: _forwards(preset, device, sizes)),
        ("12 s of sound:", lambda: _generating(preset, device, sizes, None)),
        ("12 s of sound, compiled:", lambda: _generating(preset, device, sizes, backend)),
    ]
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for prefix, run in parts:
        names = [name for name, *_ in FIGURES if name.startswith(prefix)]
        try:
            values |= run()
        except Exception as error:
            reasons |= dict.fromkeys(
                names, f"{type(error).__name__}: {error}".strip().splitlines()[0]
            )
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        yield figures(values, reasons)


def figures(values: dict[str, float | None], reasons: dict[str, str]) -> list[Figure]:
    """Every figure of FIGURES, with its value, or why there is none."""
    rows: list[Figure] = []
    for name, unit, better, target in FIGURES:
        row: Figure = {"name": name, "value": values.get(name), "unit": unit, "better": better}
        row["target"] = target
        if row["value"] is None:
            row["unmeasured"] = reasons.get(
                name, "not known of this card" if name in values else "not run"
            )
        rows.append(row)
    return rows


def write_results(path: Path, found: list[Figure], card: str | None) -> None:
    """The results file, with what the figures were measured on."""
    facts: dict[str, Any] = {"command": COMMAND, "card": card}
    if card is not None:
        facts |= {
            "cuda": torch.version.cuda,
            "machine": machine(),
            "versions": versions(),
            "commit": code_revision(),
        }
        facts |= {"date": datetime.now(UTC).date().isoformat()}
    facts["setting"] = (
        "paper preset, random weights, bf16; training on 12 clips of 12 s (259 latents), sound for "
        "one video of 12 s (96 x 64 pixels, 24 frames a second) in 100 steps with guidance"
    )
    path.write_text(json.dumps(facts | {"figures": found}, indent=1) + "\n")


def _training(
    preset: Preset, device: str, sizes: Sizes, backend: str | None
) -> dict[str, float | None]:
    """Whole optimiser steps of our trainer, one micro-batch each, on features that are at hand."""
    backbone, bridge = _bridged(preset, device)
    settings = {"batch_size": sizes.batch, "micro_batches": 1, "precision": "bf16"}
    trainer = Trainer(backbone, bridge, preset.train.model_copy(update=settings))
    batch = _batch(preset, sizes).to(backbone.device)
    with FlopCounterMode(
        display=False
    ) as counter:  # matrix products, attention, convolutions: what ran, no estimate
        trainer.train_step([batch])
    flops = counter.get_total_flops() / 1e12
    if backend:
        backbone.compile_blocks(backend)
    seconds, memory = _median(lambda: trainer.train_step([batch]), device, sizes.rounds)
    peak = next((tera for card, tera in PEAKS.items() if card in _card(device)), None)
    kind = "training step, compiled" if backend else "training step"
    return {
        f"{kind}: time": seconds * 1e3,
        f"{kind}: clips": sizes.batch / seconds,
        f"{kind}: FLOPs of forward and backward": flops,
        f"{kind}: share of the card's dense bf16 peak": flops / seconds / peak if peak else None,
        f"{kind}: peak memory": memory,
    }


@torch.no_grad()
def _forwards(preset: Preset, device: str, sizes: Sizes) -> dict[str, float | None]:
    """The same DiT with the bridge and without, in bf16, in turns."""
    backbone, bridge = _bridged(preset, device)
    backbone.dit.to(torch.bfloat16)
    batch = _batch(preset, sizes).to(backbone.device)
    inputs = backbone.inputs(backbone.conditioning(batch.text, batch.seconds))
    t = torch.full((sizes.batch,), 0.5, device=device)

    def forward(cfg: float) -> Callable[[], Tensor]:
        return lambda: backbone(batch.latent_mean, t, cfg_scale=cfg, **inputs)

    ratios: list[float] = []
    for cfg, sampling in ((1.0, False), (preset.sample.cfg, True)):
        with bridge.conditioned_on(
            VideoBatch(batch.video), batch.latent_mean.shape[-1], cache=sampling
        ):
            ours = _median(forward(cfg), device, sizes.rounds)[0]
        bridge.remove(backbone.dit)
        ratios.append(ours / _median(forward(cfg), device, sizes.rounds)[0])
        bridge.insert(backbone.dit)
    names = [name for name, *_ in FIGURES if name.startswith("DiT forward")]
    return dict(zip(names, ratios, strict=True))


def _generating(
    preset: Preset, device: str, sizes: Sizes, backend: str | None
) -> dict[str, float | None]:
    """What `foley generate` does for one video once its models are loaded; no file is written."""
    with TemporaryDirectory() as folder:
        video, path = Path(folder) / "video.mp4", Path(folder) / "bridge.safetensors"
        write_sample(video, [i / 24 for i in range(round(24 * sizes.seconds))], None)
        facts = BridgeFacts.of(preset, "v", sizes.seconds)
        save_bridge(path, _bridged(preset, "cpu")[1], facts)
        generator = SoundGenerator(preset, path, device)
        if backend:
            generator.foley.backbone.compile_blocks(backend)
        watched = Watched(generator.tokens(video, sizes.seconds))
        asked = [(Request(video, Path("unwritten.wav"), "metal", 0), sizes.seconds, watched)]
        sample = sample_settings(preset, steps=sizes.steps)
        rounds = max(1, sizes.rounds // 3)
        looking, a = _median(lambda: generator.tokens(video, sizes.seconds), device, rounds)
        sampling, b = _median(lambda: generator.sounds(asked, sample), device, rounds)
    kind = "12 s of sound, compiled" if backend else "12 s of sound"
    return {
        f"{kind}: frames and video tokens": looking,
        f"{kind}: sampling and decoding": sampling,
        f"{kind}: all, models loaded": looking + sampling,
        f"{kind}: peak memory": None if a is None or b is None else max(a, b),
    }


def _bridged(preset: Preset, device: str) -> tuple[Backbone, Bridge]:
    """The preset's backbone with an untrained bridge, on a device."""
    backbone = Backbone.from_pretrained(preset)
    torch.manual_seed(0)
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    return backbone.to(device), bridge.to(device)


def _batch(preset: Preset, sizes: Sizes) -> FeatureBatch:
    """Noise in the shapes of cached features, frame-pooled."""
    generator = torch.Generator().manual_seed(0)
    clips, frames = sizes.batch, round(sizes.seconds * preset.video.token_rate)
    latents = -(-round(sizes.seconds * preset.sample_rate) // preset.downsampling_ratio)
    shape = clips, preset.latent_channels, latents
    return FeatureBatch(
        video=torch.randn(clips, frames, 1, preset.video.width, generator=generator),
        frames=torch.full((clips,), frames),
        latent_mean=torch.randn(shape, generator=generator),
        latent_scale=torch.full(shape, 0.1),
        latents=torch.full((clips,), latents),
        text=list(torch.randn(clips, 20, preset.text_width, generator=generator)),
        seconds=[sizes.seconds] * clips,
    )


def _median(run: Callable[[], object], device: str, rounds: int) -> tuple[float, float | None]:
    """Median seconds of a run, and the GB that torch's allocator holds at most.

    Two runs before do not count.
    """
    cuda = device.startswith("cuda")
    found: list[float] = []
    for number in range(rounds + 2):
        if cuda and number == 2:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        if number >= 2:
            found.append(perf_counter() - started)
    return statistics.median(found), torch.cuda.max_memory_reserved() / 1e9 if cuda else None


def _card(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
