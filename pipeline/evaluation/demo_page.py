"""Gathers from the warehouse what the demo's report shows."""

import json
from collections.abc import Mapping
from pathlib import Path

from model.metrics.onsets import detect_onsets
from pipeline.evaluation.conditions import CONDITIONS, wav_audio
from pipeline.media import read_audio
from pipeline.report import ReportClip, ReportData, ReportSound
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse.datasets.versions import page_of
from warehouse.files import Json

PLAYERS = 6
_TOY = (
    "The scores come from tiny models that this project trained on {}: they know those and nothing "
    "else."
)


def report_data(
    data: DatasetFeatures, results: Mapping[str, object], checkpoint: Checkpoint
) -> ReportData:
    """Everything in the report; `data` has the fingerprints of generation's stages too."""
    clips = "simulated worlds" if "level" in results else "procedural clips"
    return ReportData(
        results=results,
        loss=checkpoint.record["losses"],
        validation=checkpoint.record["validation"],
        clips=_clips(data),
        curation_page=page_of(data.wh.home, data.dataset.version).name,
        note=_TOY.format(clips) if data.preset.untrained else "",
    )


def _clips(data: DatasetFeatures) -> list[ReportClip]:
    """Players for some held-out clips: those that have a sound under every condition.

    A condition under which none has a sound is left out: only procedural materials are swapped.
    """
    columns, held_out = ("sound", "sound_prompt", "onsets"), data.dataset.clip_ids("test")
    every = {c: data.rows(f"generate_{c}", columns, held_out) for c in CONDITIONS}
    sounds = {c: rows for c, rows in every.items() if rows}
    complete = sorted(set.intersection(*(set(rows) for rows in sounds.values())))[:PLAYERS]
    clips = {row["clip_id"]: row for row in data.wh.clips(None, complete).to_pylist()}
    rate = data.preset.sample_rate
    return [_clip(clips[id], {c: sounds[c][id] for c in sounds}, rate) for id in complete]


def _clip(clip: Json, rows: Mapping[str, Json], rate: int) -> ReportClip:
    path, swapped = Path(clip["path"]), rows.get("swap", {}).get("sound_prompt")
    audio = read_audio(path, rate)
    sounds = {"original": ReportSound(audio, rate, detect_onsets(audio, rate).tolist())}
    for condition, row in rows.items():
        sounds[condition] = ReportSound(*wav_audio(row["sound"]), json.loads(row["onsets"]))
    impacts = json.loads(clip["truth"] or "{}").get("impacts", ())
    prompt = clip["prompt"] or ""
    return ReportClip(clip["clip_id"], prompt, path.read_bytes(), sounds, impacts, swapped)
