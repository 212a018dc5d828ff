"""Gathers from the warehouse what the report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.metrics.onsets import detect_onsets
from pipeline.curation.gates import thresholds
from pipeline.curation.policy import parse_policy
from pipeline.evaluation.conditions import CONDITIONS, wav_audio
from pipeline.media import read_audio
from pipeline.report import ReportClip, ReportData, ReportSound, Score
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse import Dataset, Warehouse

PLAYERS = 6
_SCORES = {
    "silence": ("silent_share",),
    "imagebind": ("imagebind",),
    "audiobox": ("ce", "cu", "pc", "pq"),
    "sync": ("desync",),
    "tags": ("speech_share", "music_share"),
}
_TOY = "From a tiny model that this project trained on procedural clips: it knows those and nothing else."


def report_data(
    data: DatasetFeatures, results: Mapping[str, Any], checkpoint: Checkpoint
) -> ReportData:
    """Everything in the report.

    `data` has the fingerprints of all stages, those of generation included.
    """
    return ReportData(
        results=results,
        scores=scores_of(data.wh, data.dataset),
        loss=[(int(step), float(loss)) for step, loss in checkpoint.record["losses"]],
        validation=[
            (int(s), float(t), float(n), float(o)) for s, t, n, o in checkpoint.record["validation"]
        ],
        clips=_clips(data),
        notes=dict.fromkeys(("imagebind", "audiobox", "synchformer", "panns"), _TOY)
        if data.preset.untrained
        else {},
    )


def scores_of(wh: Warehouse, dataset: Dataset) -> dict[str, Score]:
    """Every score that the dataset was judged by, over all clips that have it, with the policy's bounds."""
    everyone = dataset.members(kept=None)["clip_id"].to_pylist()
    lower: dict[str, float] = {}
    upper: dict[str, float] = {}
    for threshold in thresholds(parse_policy(dataset.policy, dataset.version).gates):
        side = lower if threshold.comparison in ("above", "at_least") else upper
        side[threshold.column] = threshold.bound
    scores: dict[str, Score] = {}
    for stage, names in _SCORES.items():
        if stage not in dataset.fingerprints:
            continue
        rows = wh.rows(stage, dataset.fingerprints[stage], None, list(names), everyone)
        for name in names:
            values = [float(v) for v in rows[name].to_pylist() if v is not None]
            if values:  # no clip may be as long as a window of Synchformer
                scores[name] = Score(values, lower.get(name), upper.get(name))
    return scores


def _clips(data: DatasetFeatures) -> list[ReportClip]:
    """Players for some held-out clips: those that have a sound under every condition."""
    columns = ["clip_id", "sound", "sound_prompt", "onsets"]
    held_out = data.dataset.clip_ids(split="test")
    sounds: dict[str, dict[str, dict[str, Any]]] = {}
    for condition in CONDITIONS:
        stage = f"generate_{condition}"
        fingerprint = data.fingerprints[stage]
        rows = data.wh.rows(stage, fingerprint, columns=columns, clip_ids=held_out).to_pylist()
        sounds[condition] = {row["clip_id"]: row for row in rows}
    chosen = sorted(set.intersection(*(set(rows) for rows in sounds.values())))[:PLAYERS]
    clips = {row["clip_id"]: row for row in data.wh.clips(None, chosen).to_pylist()}
    return [
        _clip(clips[id], {c: sounds[c][id] for c in CONDITIONS}, data.preset.sample_rate)
        for id in chosen
    ]


def _clip(
    clip: Mapping[str, Any], sounds: Mapping[str, Mapping[str, Any]], sample_rate: int
) -> ReportClip:
    path = Path(clip["path"])
    original = read_audio(path, sample_rate)
    heard = {
        "original": ReportSound(
            original, sample_rate, detect_onsets(original, sample_rate).tolist()
        )
    }
    for condition, row in sounds.items():
        heard[condition] = ReportSound(*wav_audio(row["sound"]), json.loads(row["onsets"]))
    truth: dict[str, Sequence[float]] = json.loads(clip["truth"] or "{}")
    return ReportClip(
        clip_id=clip["clip_id"],
        prompt=clip["prompt"] or "",
        video=path.read_bytes(),
        sounds=heard,
        impacts=truth.get("impacts", ()),
        swapped_prompt=sounds["swap"]["sound_prompt"],
    )
