"""The pooling ablation (paper section 4.2, Table 1 and Figure 2): the same training on frame and on grid tokens.

Variants train on the fixed-seed 30% subset of the training split with the same recipe and seed, and are scored at the
same step marks, without text, so that video alone guides the sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.backbone import default_device
from model.foley import FoleyControl
from model.onsets import detect_onsets, sync_score
from model.presets import ModelError, Preset
from model.training import validate
from pipeline.evaluate import truths_of
from pipeline.generate import clip_seed
from pipeline.report.curves import curves_svg
from pipeline.train import feature_set, find_checkpoint, split_batches
from warehouse import Dataset, FoleyError, Warehouse

ABLATION_VERSION = 1
CHUNK = 32  # clips sampled at once


@dataclass(frozen=True)
class Mark:
    """Figures of one variant after some steps, on the held-out clips, without text."""

    pooling: str
    steps: int
    f1_60ms: float | None
    mae_ms: float | None
    v_loss: float
    checkpoint: str


def variant(preset: Preset, pooling: str, marks: Sequence[int]) -> Preset:
    """The preset with another pooling, that trains to the last mark and keeps a checkpoint at each.

    Raises ModelError for a pooling that there is not.
    """
    try:
        video = type(preset.video).model_validate(preset.video.model_dump() | {"pooling": pooling})
    except ValueError:
        raise ModelError(f"no pooling {pooling!r}: use frame, grid2, grid4, grid8 or grid16") from None
    keep = {"steps": max(marks), "keep_steps": tuple(marks[:-1])}
    return preset.model_copy(update={"video": video, "train": preset.train.model_copy(update=keep)})


def score_mark(
    wh: Warehouse, dataset: Dataset, fps: Mapping[str, str], preset: Preset, checkpoint: str, steps: int
) -> Mark:
    """Generate sound for the `test` split without text, and score it; found again when it was done before."""
    identity = [ABLATION_VERSION, checkpoint, dataset.version, preset.sample.model_dump(), dict(fps)]
    id = "ablation-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    if known := [record for record in wh.records("evaluations") if record["id"] == id]:
        return Mark(**known[0]["figures"])
    found_checkpoint = find_checkpoint(wh, checkpoint)
    if found_checkpoint is None:
        raise FoleyError(
            f"no checkpoint {checkpoint}: it was trained before without that mark; use its marks or a --seed"
        )
    foley = FoleyControl.from_pretrained(preset, found_checkpoint.path, default_device())
    features = feature_set(wh, dataset, fps, "test")
    losses = validate(foley.backbone, foley.bridge, split_batches(features, preset.train.batch_size), seed=0)
    found: dict[str, np.ndarray] = {}
    arrays = features.read(columns=["video_tokens", "n_video_tokens", "audio_seconds"])
    for begin in range(0, len(features), CHUNK):
        ids = arrays["clip_id"][begin : begin + CHUNK].tolist()
        counts = arrays["n_video_tokens"][begin : begin + CHUNK].tolist()
        rows = torch.from_numpy(arrays["video_tokens"][begin : begin + CHUNK].astype(np.float32))
        sounds = foley.generate(
            [row[:count] for row, count in zip(rows, counts, strict=True)],
            [""] * len(ids),
            arrays["audio_seconds"][begin : begin + CHUNK].tolist(),
            [clip_seed(0, clip) for clip in ids],
        )
        found |= {
            clip: detect_onsets(sound.mean(0), preset.sample_rate) for clip, sound in zip(ids, sounds, strict=True)
        }
    truths = truths_of(wh, list(found))
    sync = sync_score([np.array(truths[c]["impacts"], float) for c in truths], [found[c] for c in truths])
    mark = Mark(preset.video.pooling, steps, sync.f1_60ms, sync.mae_ms, losses.true, checkpoint)
    wh.write_record(
        "evaluations",
        id,
        {"checkpoint": checkpoint, "dataset": dataset.version, "system": "foley-control", "figures": asdict(mark)},
    )
    return mark


def table(marks: Sequence[Mark]) -> str:
    """Table 1 as Markdown: a row a step mark, the figures of each variant side by side."""
    poolings = list(dict.fromkeys(mark.pooling for mark in marks))
    by = {(mark.pooling, mark.steps): mark for mark in marks}
    head = " | ".join(f"{pooling}: F1 at 60 ms | v-loss" for pooling in poolings)
    lines = [f"| steps | {head} |", "| --- |" + " --- | --- |" * len(poolings)]
    for steps in sorted({mark.steps for mark in marks}):
        cells = [by[pooling, steps] for pooling in poolings]
        text = " | ".join(f"{_figure(m.f1_60ms)} | {m.v_loss:.4f}" for m in cells)
        lines.append(f"| {steps} | {text} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def figure(marks: Sequence[Mark]) -> str:
    """Figure 2 as SVG: F1 at 60 ms over steps, a line a variant."""
    poolings = list(dict.fromkeys(mark.pooling for mark in marks))
    series = [(p, [(m.steps, m.f1_60ms or 0.0) for m in marks if m.pooling == p]) for p in poolings]
    return curves_svg("training steps; F1 at 60 ms of held-out clips, no text", series)


def write_results(folder: Path, marks: Sequence[Mark], facts: Mapping[str, Any]) -> Path:
    """Write ablation.json, ablation.md and the figure ablation.svg into a folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.json").write_text(json.dumps({**facts, "marks": [asdict(m) for m in marks]}, indent=1) + "\n")
    (folder / "ablation.svg").write_text(figure(marks) + "\n")
    page = folder / "ablation.md"
    page.write_text(f"{table(marks)}\n\n![F1 at 60 ms over training steps](ablation.svg)\n")
    return page
