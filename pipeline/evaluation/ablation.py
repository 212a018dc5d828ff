"""Ablations: the same training with one thing changed, scored at the same marks and clips.

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
from model.types import Times
from pipeline.curation.policy import load_policy, select
from pipeline.evaluation.conditions import clip_seed
from pipeline.evaluation.held_out import SYSTEMS, truths_of
from pipeline.evaluation.results import EvaluationRecord, figure_of
from pipeline.report.curves import curves_svg
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import find_checkpoint
from warehouse import Dataset, FeatureSet, FoleyError, Warehouse
from warehouse.datasets.versions import UNCURATED
from warehouse.files import identity_hash

VERSION = 3  # raised when the same checkpoint gives other figures, or records of another form
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
    """The preset with another pooling. Raises ModelError for one that does not exist."""
    try:
        video = type(preset.video).model_validate(preset.video.model_dump() | {"pooling": pooling})
    except ValueError:
        raise ModelError(
            f"no pooling {pooling!r}: use frame, grid2, grid4, grid8 or grid16"
        ) from None
    return preset.model_copy(update={"video": video})


def trained_to(preset: Preset, marks: Sequence[int]) -> Preset:
    """The preset that trains to the last mark and keeps a checkpoint at each.

    No finite loss stops it: one noisy clip of an uncurated set can cost a step a hundred times the
    usual loss, and that is what the ablation shows.
    """
    changes = {"steps": max(marks), "keep_steps": tuple(marks[:-1]), "diverged_at": 1e9}
    return preset.model_copy(update={"train": preset.train.model_copy(update=changes)})


def uncurated(wh: Warehouse, dataset: Dataset) -> Dataset:
    """A version of all clips that decode, of those a dataset was selected from, in its splits."""
    splits = {name: dataset.policy[name] for name in ("val", "test", "seed", "ablation_share")}
    candidates = dataset.members(kept=None)["clip_id"].to_pylist()
    policy = replace(load_policy("all"), **splits)
    name = f"{dataset.name}.{UNCURATED}"
    return select(wh, dataset.fingerprints, policy, name, candidates, role=UNCURATED)


def score_mark(data: DatasetFeatures, checkpoint: str, variant: str, steps: int) -> Mark:
    """Generate sound for the dataset's test split without text, and score it.

    The figures are kept as a record of the catalog's `evaluations`, and used again.
    """
    wh, preset, dataset = data.wh, data.preset, data.dataset.version
    sampling, fingerprints = preset.sample.model_dump(), dict(data.fingerprints)
    id = "ablation-" + identity_hash(
        [VERSION, checkpoint, dataset, sampling, fingerprints, variant]
    )
    for record in wh.records("evaluations"):
        if record["id"] == id:
            return _mark(record)
    trained = find_checkpoint(wh, checkpoint)
    if trained is None:
        raise FoleyError(
            f"no checkpoint {checkpoint}: it was trained before without that mark; use its marks "
            "or a --seed"
        )
    foley = FoleyControl.from_pretrained(preset, trained.path, default_device())
    losses = validate(foley.backbone, foley.bridge, data.batches("test"), seed=0)
    features = data.split("test")
    onsets = _onsets(foley, features, preset.sample_rate)
    truths = truths_of(wh, list(onsets))
    impacts = [np.array(truth["impacts"], float) for truth in truths.values()]
    sync = sync_score(impacts, [onsets[clip] for clip in truths])
    figures = {
        "f1_60ms": figure_of(sync.f1_60ms, len(truths)),
        "mae_ms": figure_of(sync.mae_ms, len(truths)),
        "v_loss": figure_of(losses.true, len(features)),
    }
    record = EvaluationRecord(
        id=id,
        system=SYSTEMS["true"],
        preset=preset.name,
        set=f"held-out.{dataset}",
        figures={name: figure for name, figure in figures.items() if figure},
        checkpoint=checkpoint,
        dataset=dataset,
        details={"variant": variant, "steps": steps},
    )
    return _mark(record.write(wh))


def _onsets(foley: FoleyControl, features: FeatureSet, sample_rate: int) -> dict[str, Times]:
    """Onsets (s) in a sound for every clip that is made from its video alone."""
    arrays = features.read(columns=["video_tokens", "n_video_tokens", "audio_seconds"])
    clips = list(
        zip(
            arrays["clip_id"].tolist(),
            arrays["audio_seconds"].tolist(),
            arrays["video_tokens"],
            arrays["n_video_tokens"],
            strict=True,
        )
    )
    onsets: dict[str, Times] = {}
    for start in range(0, len(clips), CHUNK):
        part = clips[start : start + CHUNK]
        requests = [
            SoundRequest("", seconds, clip_seed(0, id), torch.from_numpy(video[:count]).float())
            for id, seconds, video, count in part
        ]
        for (id, *_), sound in zip(part, foley.generate(requests), strict=True):
            onsets[id] = detect_onsets(sound.mean(0), sample_rate)
    return onsets


def _mark(record: Mapping[str, Any]) -> Mark:
    values = {name: figure["value"] for name, figure in record["figures"].items()}
    return Mark(
        record["variant"],
        record["steps"],
        values.get("f1_60ms"),
        values.get("mae_ms"),
        values["v_loss"],
        record["checkpoint"],
    )


def table(marks: Sequence[Mark]) -> str:
    """The figures as Markdown: a row a step mark, variants side by side (Table 1)."""
    variants = list(dict.fromkeys(mark.variant for mark in marks))
    by_step = {(mark.variant, mark.steps): mark for mark in marks}
    head = " | ".join(f"{name}: F1 at 60 ms | v-loss" for name in variants)
    lines = [f"| steps | {head} |", "| --- |" + " --- | --- |" * len(variants)]
    for steps in sorted({mark.steps for mark in marks}):
        cells: list[str] = []
        for mark in (by_step[name, steps] for name in variants):
            f1 = "-" if mark.f1_60ms is None else f"{mark.f1_60ms:.3f}"
            cells += [f1, f"{mark.v_loss:.4f}"]
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(marks: Sequence[Mark]) -> str:
    """Figure 2 as SVG: F1 at 60 ms over steps, a line a variant."""
    series = [
        (name, [(m.steps, m.f1_60ms or 0.0) for m in marks if m.variant == name])
        for name in dict.fromkeys(mark.variant for mark in marks)
    ]
    return curves_svg("training steps; F1 at 60 ms of held-out clips, no text", series)


def write_results(folder: Path, marks: Sequence[Mark], facts: Mapping[str, Any]) -> Path:
    """Write ablation.json, ablation.md and ablation.svg into a folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {**facts, "marks": [asdict(mark) for mark in marks]}
    (folder / "ablation.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "ablation.svg").write_text(figure(marks) + "\n")
    page = folder / "ablation.md"
    page.write_text(f"{table(marks)}\n\n![F1 at 60 ms over training steps](ablation.svg)\n")
    return page
