"""What the bridge costs at the paper's full block width (1536, video 1024), with fewer blocks.

One run, one thread, float32 on the CPU, frame pooling, 12 s of sound (259 latents). Blocks are
alike, so the ratios hold for 24 of them but for what comes before and after the blocks. What is
unmeasured: anything on a GPU.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.bridge import Bridge, VideoBatch
from model.presets.preset import load_preset
from tests.benchmarks.figures import Figure, figure

BLOCKS, BATCH, LATENTS, FRAMES, ROUNDS = 2, 2, 259, 96, 5
# where memory is measured: with two, what lies outside the blocks weighs more than it does in 24
MEMORY_BLOCKS = 4


def full_width() -> Iterator[Figure]:
    """DiT forward with the bridge, and its training step beside one of the whole DiT."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        yield from _forwards()
        yield from _steps()
        yield from _memory()
    finally:
        torch.set_num_threads(before)


def _dit(blocks: int = BLOCKS) -> Any:
    """Stable Audio Open's DiT with some of its 24 blocks."""
    from stable_audio_tools.models.dit import DiffusionTransformer

    return DiffusionTransformer(
        **load_preset("paper").backbone_config["model"]["diffusion"]["config"] | {"depth": blocks}
    )


def _bridge(dit: Any) -> Bridge:
    preset = load_preset("paper")
    blocks = len(dit.transformer.layers)
    found = Bridge(
        1536,
        blocks,
        (1, preset.video.width),
        preset.bridge,
        (preset.latent_rate, preset.video.token_rate),
    )
    found.insert(dit)
    dit.requires_grad_(False)
    found.requires_grad_(True)
    return found


def _call(dit: Any, checkpointing: bool = False, cfg: float = 1.0) -> Callable[[], Tensor]:
    """A forward of the DiT on inputs of the paper's shapes; with guidance it doubles the batch."""
    generator = torch.Generator().manual_seed(0)
    x, text, seconds = (
        torch.randn(shape, generator=generator)
        for shape in ((BATCH, 64, LATENTS), (BATCH, 130, 768), (BATCH, 1536))
    )
    t = torch.full((BATCH,), 0.5)
    return lambda: dit(
        x,
        t,
        cross_attn_cond=text,
        global_embed=seconds,
        cfg_scale=cfg,
        use_checkpointing=checkpointing,
    )


def _tokens() -> Tensor:
    return torch.randn(BATCH, FRAMES, 1, 1024, generator=torch.Generator().manual_seed(1))


def _forwards() -> Iterator[Figure]:
    bare, dit = _dit().requires_grad_(False), _dit()
    bridge, tokens = _bridge(dit), _tokens()
    kinds = (
        ("", False, 1.0),
        (", sampling without guidance", True, 1.0),
        (", sampling", True, 7.0),
    )
    for kind, sampling, cfg in kinds:
        runs: dict[str, Callable[[], object]] = {
            name: torch.no_grad()(_call(model, cfg=cfg))
            for name, model in (("bare", bare), ("bridge", dit))
        }
        with bridge.conditioned_on(VideoBatch(tokens), LATENTS, cache=sampling):
            seconds = _seconds(runs)
        name = f"DiT forward with the bridge{kind}"
        yield _figure(
            name, seconds["bridge"] * 1e3, "ms", "the bare forward", seconds["bare"] * 1e3
        )
    forwards = {"bare": torch.no_grad()(_call(bare)), "bridge": torch.no_grad()(_call(dit))}
    flops = _flops(forwards["bare"])
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
        yield _figure(
            "FLOPs of a DiT forward with the bridge",
            _flops(forwards["bridge"]),
            "FLOP",
            "the bare forward",
            flops,
        )


def _steps() -> Iterator[Figure]:
    """Times of forward and backward, and of the whole step with its optimiser.

    The limit is counted in FLOPs.
    """
    full, dit = _dit(), _dit()
    bridge, tokens = _bridge(dit), _tokens()
    with torch.no_grad():
        one = _flops(_call(full))
        with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
            ours = _flops(_call(dit)) - one
    limit = (2 * one + 3 * ours) / (3 * one)
    optimisers = {
        "full": torch.optim.AdamW(full.parameters()),
        "bridge": torch.optim.AdamW(bridge.parameters()),
    }
    calls = {"full": _call(full), "bridge": _call(dit)}

    def passes(name: str) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        with (
            bridge.conditioned_on(VideoBatch(tokens), LATENTS)
            if name == "bridge"
            else nullcontext()
        ):
            calls[name]().square().mean().backward()

    def step(name: str) -> None:
        passes(name)
        optimisers[name].step()

    runs: dict[str, Callable[[], object]] = {
        "full": lambda: passes("full"),
        "bridge": lambda: passes("bridge"),
        "full step": lambda: step("full"),
        "bridge step": lambda: step("bridge"),
    }
    found = {name: seconds * 1e3 for name, seconds in _seconds(runs).items()}
    yield _figure(
        "FLOP limit of the bridge's forward and backward", limit, "x", "the full DiT's", 1.0
    )
    yield _figure(
        "bridge training, forward and backward",
        found["bridge"],
        "ms",
        "its FLOP limit",
        found["full"] * limit,
    )
    yield _figure(
        "bridge training, forward and backward",
        found["bridge"],
        "ms",
        "the full DiT's",
        found["full"],
    )
    name = "bridge training step with its optimiser"
    yield _figure(name, found["bridge step"], "ms", "a full training step", found["full step"])


def _memory() -> Iterator[Figure]:
    """Peak memory of a training step over that of the process before.

    Weights, gradients, optimiser, activations.
    """
    for checkpointing in (False, True):
        with get_context("spawn").Pool(
            1, maxtasksperchild=1
        ) as pool:  # a process each: freed memory is not given back
            full, ours = (pool.apply(_peak, (bridged, checkpointing)) for bridged in (False, True))
        kind = "with checkpointing" if checkpointing else "no checkpointing"
        yield _figure(
            f"peak memory of a bridge training step, {kind}",
            ours,
            "MB",
            "a full training step's",
            full,
        )


def _peak(bridged: bool, checkpointing: bool) -> float:
    """MB that two steps of training take at most, from building the model on."""
    torch.set_num_threads(1)
    _call(_dit(1).requires_grad_(False))()  # what libraries take once does not count
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    dit = _dit(MEMORY_BLOCKS)
    bridge = _bridge(dit) if bridged else None
    optimiser, call = torch.optim.AdamW((bridge or dit).parameters()), _call(dit, checkpointing)
    for _ in range(2):
        with bridge.conditioned_on(VideoBatch(_tokens()), LATENTS) if bridge else nullcontext():
            call().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[field].split()[0])


def _flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _seconds(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor seconds of each, in alternating rounds after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            started = process_time()
            run()
            if round_:
                found[name].append(process_time() - started)
    return {name: statistics.median(values) for name, values in found.items()}


def _figure(
    name: str, value: float, unit: str, against: str | None = None, other: float | None = None
) -> Figure:
    return figure(name, value, unit, against, value / other if other else None)
