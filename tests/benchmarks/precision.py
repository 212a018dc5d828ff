"""What bf16 costs in parity: the toy's features and scores, and full-size blocks, beside float32.

On the CPU, by autocast, as a preset's `[precision]` has it. What bf16 saves on a GPU is unmeasured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.presets.preset import Preset, load_preset
from model.weights.device import autocast
from pipeline.curation.stage_graph import StageGraph
from pipeline.media import probe
from pipeline.procedural import sample_clip, write_clip
from pipeline.stages.stage import Clip, Passed
from tests.benchmarks.figures import Figure, figure

CLIPS = 6
#: Stages, and what of the preset's `[precision]` they run in.
STAGES = (
    ("video_tokens", "video"),
    ("audio_latents", "latents"),
    ("imagebind", "networks"),
    ("audiobox", "networks"),
    ("sync", "networks"),
)
ARRAYS = ("video_tokens", "latent_mean", "latent_scale")
FRAMES = 4  # of 256 x 256 pixels, through the full-size encoder


def precision() -> Iterator[Figure]:
    """Cosine and largest error of every array, and of every score."""
    with TemporaryDirectory() as folder:
        clips = list(_clips(Path(folder)))
        for stage, part in STAGES:
            runs = [_run(stage, part, kind, clips) for kind in ("fp32", "bf16")]
            for column in runs[0][0]:
                exact, half = (_values([row[column] for row in rows], column) for rows in runs)
                if exact is not None and half is not None:
                    yield from _figures(f"{stage}, {column}", exact, half)
    yield from _figures("V-JEPA2 ViT-L at full size, random weights", *_encoder())


def _clips(folder: Path) -> Iterator[Clip]:
    for seed in range(CLIPS):
        clip, path = sample_clip(seed, 4.0), folder / f"{seed}.mp4"
        write_clip(clip, path)
        yield {**vars(probe(path)), "clip_id": str(seed), "path": str(path), "prompt": clip.prompt}


def _run(name: str, part: str, kind: str, clips: Sequence[Clip]) -> list[Mapping[str, Any]]:
    toy = load_preset("toy")
    preset = Preset.model_validate(toy.model_dump() | {"precision": {part: kind}})
    stage = next(stage for stage in StageGraph(preset).stages if stage.name == name)
    stage.setup()
    with stage.running():
        outcomes = stage.process(clips)
    return [outcome.columns for outcome in outcomes if isinstance(outcome, Passed)]


def _values(values: Sequence[Any], column: str) -> NDArray[np.float64] | None:
    """Values of a column over all clips; None for those that no model gives."""
    if column in ARRAYS:
        return np.concatenate([np.frombuffer(v, np.float16) for v in values]).astype(np.float64)
    numbers = [value for value in values if isinstance(value, float)]
    counted = column.startswith(("n_", "video_seconds", "audio_seconds"))
    return None if counted or len(numbers) < len(values) else np.array(numbers)


def _encoder() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens of noise, in float32 and in bf16."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    model = VJEPA2Model(VJEPA2Config()).eval()
    pixels = torch.randn(1, FRAMES, 3, 256, 256)
    with torch.inference_mode():
        exact = model.get_vision_features(pixels)
        with autocast("bf16", "cpu"):
            half = model.get_vision_features(pixels)
    return exact.double().numpy().ravel(), half.double().numpy().ravel()


def _figures(name: str, exact: NDArray[np.float64], half: NDArray[np.float64]) -> Iterator[Figure]:
    cosine = exact @ half / np.sqrt((exact @ exact) * (half @ half))
    error = np.abs(half - exact).max() / np.abs(exact).max()
    rms = np.sqrt(np.square(half - exact).mean() / exact.var())
    found = {
        "1 - cosine": 1 - cosine,
        "largest error over the largest value": error,
        "rms error over the deviation between values": rms,
    }
    for what, value in found.items():
        yield figure(f"bf16, {name}: {what}", float(f"{value:.2g}"), "1")
