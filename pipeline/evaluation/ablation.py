"""Ablations: the same training with one thing changed, scored at the same step marks on the same clips.

Pooling (paper section 4.2, Table 1 and Figure 2): variants train on frame and on grid tokens of the
fixed-seed 30% subset of the training split. Curation: on the training split that a policy chose,
and on all that decodes. Recipe and seed are the same; sounds are made without text, so that video
alone guides them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.device import default_device
from model.foley import FoleyControl, SoundRequest
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import ModelError, Preset
from model.training.trainer import validate
from pipeline.curation.policy import load_policy, select
from pipeline.evaluation.conditions import clip_seed
from pipeline.evaluation.onset_figures import truths_of
from pipeline.report.curves import curves_svg
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import find_checkpoint
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.datasets.versions import UNCURATED
from warehouse.files import identity_hash

ABLATION_VERSION = 2
CHUNK = 32  # clips sampled at once


@dataclass(frozen=True)
class Mark:
    """Figures of one variant after some steps, on the held-out clips, without text."""

    variant: str
    steps: int
    f1_60ms: float | None
    mae_ms: float | None
    v_loss: float
    checkpoint: str


def pooled(preset: Preset, pooling: str) -> Preset:
    """The preset with another pooling. Raises ModelError for a pooling that there is not."""
    try:
        video = type(preset.video).model_validate(preset.video.model_dump() | {"pooling": pooling})
    except ValueError:
        raise ModelError(
            f"no pooling {pooling!r}: use frame, grid2, grid4, grid8 or grid16"
        ) from None
    return preset.model_copy(update={"video": video})


def trained_to(preset: Preset, marks: Sequence[int]) -> Preset:
    """The preset that trains to the last mark, keeps a checkpoint at each, and is stopped by no loss that is a number.

    One noisy clip of an uncurated set can cost a step a hundred times the usual loss: that is what
    is to be shown.
    """
    keep = {"steps": max(marks), "keep_steps": tuple(marks[:-1]), "diverged_at": 1e9}
    return preset.model_copy(update={"train": preset.train.model_copy(update=keep)})


def uncurated(wh: Warehouse, dataset: Dataset) -> Dataset:
    """A version with all clips that the dataset judged and that decode, divided as the dataset's policy does."""
    splits = {name: dataset.policy[name] for name in ("val", "test", "seed", "ablation_share")}
    everyone = dataset.members(kept=None)["clip_id"].to_pylist()
    policy = replace(load_policy("all"), **splits)
    name = f"{dataset.name}.{UNCURATED}"
    return select(wh, dataset.fingerprints, policy, name, everyone, role=UNCURATED)


def score_mark(data: DatasetFeatures, checkpoint: str, variant: str, steps: int) -> Mark:
    """Generate sound for the dataset's `test` split without text, and score it.

    Found again when it was done before.
    """
    wh, preset = data.wh, data.preset
    identity = [
        ABLATION_VERSION,
        checkpoint,
        data.dataset.version,
        preset.sample.model_dump(),
        dict(data.fingerprints),
        variant,
    ]
    id = "ablation-" + identity_hash(identity)
    if known := [record for record in wh.records("evaluations") if record["id"] == id]:
        return Mark(**known[0]["figures"])
    found_checkpoint = find_checkpoint(wh, checkpoint)
    if found_checkpoint is None:
        raise FoleyError(
            f"no checkpoint {checkpoint}: it was trained before without that mark; use its marks or a --seed"
        )
    foley = FoleyControl.from_pretrained(preset, found_checkpoint.path, default_device())
    features = data.split("test")
    losses = validate(foley.backbone, foley.bridge, data.batches("test"), seed=0)
    found: dict[str, np.ndarray] = {}
    arrays = features.read(columns=["video_tokens", "n_video_tokens", "audio_seconds"])
    for begin in range(0, len(features), CHUNK):
        ids = arrays["clip_id"][begin : begin + CHUNK].tolist()
        counts = arrays["n_video_tokens"][begin : begin + CHUNK].tolist()
        rows = torch.from_numpy(arrays["video_tokens"][begin : begin + CHUNK].astype(np.float32))
        seconds = arrays["audio_seconds"][begin : begin + CHUNK].tolist()
        sounds = foley.generate(
            [
                SoundRequest("", length, clip_seed(0, clip), row[:count])
                for clip, length, row, count in zip(ids, seconds, rows, counts, strict=True)
            ]
        )
        found |= {
            clip: detect_onsets(sound.mean(0), preset.sample_rate)
            for clip, sound in zip(ids, sounds, strict=True)
        }
    truths = truths_of(wh, list(found))
    sync = sync_score(
        [np.array(truths[c]["impacts"], float) for c in truths], [found[c] for c in truths]
    )
    mark = Mark(variant, steps, sync.f1_60ms, sync.mae_ms, losses.true, checkpoint)
    wh.write_record(
        "evaluations",
        id,
        {
            "checkpoint": checkpoint,
            "dataset": data.dataset.version,
            "system": "foley-control",
            "figures": asdict(mark),
        },
    )
    return mark


def table(marks: Sequence[Mark]) -> str:
    """The figures as Markdown (Table 1).

    A row a step mark, the figures of each variant side by side.
    """
    names = list(dict.fromkeys(mark.variant for mark in marks))
    by = {(mark.variant, mark.steps): mark for mark in marks}
    head = " | ".join(f"{name}: F1 at 60 ms | v-loss" for name in names)
    lines = [f"| steps | {head} |", "| --- |" + " --- | --- |" * len(names)]
    for steps in sorted({mark.steps for mark in marks}):
        cells = [by[name, steps] for name in names]
        text = " | ".join(f"{_figure(m.f1_60ms)} | {m.v_loss:.4f}" for m in cells)
        lines.append(f"| {steps} | {text} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def figure(marks: Sequence[Mark]) -> str:
    """Figure 2 as SVG: F1 at 60 ms over steps, a line a variant."""
    names = list(dict.fromkeys(mark.variant for mark in marks))
    series = [
        (name, [(m.steps, m.f1_60ms or 0.0) for m in marks if m.variant == name]) for name in names
    ]
    return curves_svg("training steps; F1 at 60 ms of held-out clips, no text", series)


def write_results(folder: Path, marks: Sequence[Mark], facts: Mapping[str, Any]) -> Path:
    """Write ablation.json, ablation.md and the figure ablation.svg into a folder.

    Returns the page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.json").write_text(
        json.dumps({**facts, "marks": [asdict(m) for m in marks]}, indent=1) + "\n"
    )
    (folder / "ablation.svg").write_text(figure(marks) + "\n")
    page = folder / "ablation.md"
    page.write_text(f"{table(marks)}\n\n![F1 at 60 ms over training steps](ablation.svg)\n")
    return page
