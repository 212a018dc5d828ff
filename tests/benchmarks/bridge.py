"""What the bridge costs the DiT.

A forward with it beside the bare one, and a training step beside a forward.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import build_bridge
from model.presets.preset import load_preset

Figure = dict[str, Any]
BATCH, LATENTS, FRAMES, ROUNDS = 16, 100, 32, 15


def bridge() -> Iterator[Figure]:
    """Toy DiT at batch 16, 4 s, one thread.

    Bare, with the bridge, as sampling runs it, and a training step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _figures()
    finally:
        torch.set_num_threads(before)


def _figures() -> Iterator[Figure]:
    preset = load_preset("toy")
    backbone, bare = Backbone.from_pretrained(preset), Backbone.from_pretrained(preset)
    bridge = build_bridge(backbone)
    bridge.insert(backbone.dit)
    inputs = backbone.inputs(
        backbone.conditioning(backbone.encode_text(["wood"] * BATCH), [4.0] * BATCH)
    )
    noisy, t = torch.randn(BATCH, preset.latent_channels, LATENTS), torch.rand(BATCH)
    tokens = torch.randn(BATCH, FRAMES, 1, preset.video.width)

    def step() -> None:
        with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
            backbone(noisy, t, **inputs).square().mean().backward()

    def forward(model: Backbone) -> Callable[[], object]:
        return torch.no_grad()(lambda: model(noisy, t, **inputs))

    runs = {
        "bare": forward(bare),
        "bridge": _watched(bridge, tokens, forward(backbone)),
        "step": step,
    }
    with bridge.conditioned_on(VideoBatch(tokens), LATENTS, cache=True):
        seconds = {"sampling": _seconds({"bare": forward(bare), "sampling": forward(backbone)})}
    seconds["all"] = _seconds(runs)
    alone = seconds["all"]["bare"]
    yield _figure("DiT forward, bare", alone)
    yield _figure(
        "DiT forward with the bridge", seconds["all"]["bridge"], "the bare forward", alone
    )
    sampling = seconds["sampling"]
    yield _figure(
        "DiT forward with the bridge, sampling",
        sampling["sampling"],
        "the bare forward",
        sampling["bare"],
    )
    yield _figure("bridge training step", seconds["all"]["step"], "the bare forward", alone)


def _watched(bridge: Bridge, tokens: Tensor, run: Callable[[], object]) -> Callable[[], object]:
    def watched() -> None:
        with bridge.conditioned_on(VideoBatch(tokens), LATENTS):
            run()

    return watched


def _seconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, in alternating rounds after one that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        for name, run in runs.items():
            started = perf_counter()
            run()
            if round_:
                found[name].append(perf_counter() - started)
    return {name: statistics.median(values) for name, values in found.items()}


def _figure(
    name: str, seconds: float, against: str | None = None, other: float | None = None
) -> Figure:
    ratio = seconds / other if other else None
    figure = {"name": name, "value": seconds * 1e3, "unit": "ms", "better": "lower"}
    return figure | {"against": against, "ratio": ratio}
