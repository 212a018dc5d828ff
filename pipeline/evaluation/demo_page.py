"""Gathers from the warehouse what the demo's report shows."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model.metrics.onsets import detect_onsets
from pipeline.evaluation.conditions import CONDITIONS, wav_audio
from pipeline.evaluation.held_out import truths_of
from pipeline.evaluation.worlds.figures import WorldFigures, changed
from pipeline.media import read_audio
from pipeline.report import ReportClip, ReportData, ReportSound
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse.datasets.versions import page_of
from warehouse.files import Json

PLAYERS = 6
COLUMNS = ("sound", "sound_prompt", "onsets")
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
        pair=_pair(data),
        curation_page=page_of(data.wh.home, data.dataset.version).name,
        note=_TOY.format(clips) if data.preset.untrained else "",
    )


def _clips(data: DatasetFeatures) -> list[ReportClip]:
    """Players for some held-out clips: those that have a sound under every condition.

    A condition under which none has a sound is left out: not every prompt can be swapped.
    """
    held_out = data.dataset.clip_ids("test")
    asked = [c for c in CONDITIONS if f"generate_{c}" in data.fingerprints]
    every = {c: data.rows(f"generate_{c}", COLUMNS, held_out) for c in asked}
    sounds = {c: rows for c, rows in every.items() if rows}
    complete = sorted(set.intersection(*(set(rows) for rows in sounds.values())))[:PLAYERS]
    clips = {row["clip_id"]: row for row in data.wh.clips(None, complete).to_pylist()}
    rate = data.preset.sample_rate
    return [_clip(clips[id], {c: sounds[c][id] for c in sounds}, rate) for id in complete]


def _pair(data: DatasetFeatures) -> list[ReportClip]:
    """The first pair of worlds that is held out whole, with their own and the made sound."""
    truths = truths_of(data.wh, data.held_out_clips())
    pairs = WorldFigures(data, truths).pairs()
    made = data.rows("generate_true", COLUMNS, [clip for pair in pairs for clip in pair])
    for pair in pairs:
        if all(id in made for id in pair):
            clips = {row["clip_id"]: row for row in data.wh.clips(None, pair).to_pylist()}
            rate, span = data.preset.sample_rate, changed(truths[pair[1]])
            both = [_clip(clips[id], {"true": made[id]}, rate) for id in pair]
            return [replace(clip, changed=span) for clip in both]
    return []


def _clip(clip: Json, rows: Mapping[str, Json], rate: int) -> ReportClip:
    path, swapped = Path(clip["path"]), rows.get("swap", {}).get("sound_prompt")
    audio = read_audio(path, rate)
    sounds = {"original": ReportSound(audio, rate, detect_onsets(audio, rate).tolist())}
    for condition, row in rows.items():
        sounds[condition] = ReportSound(*wav_audio(row["sound"]), json.loads(row["onsets"]))
    impacts = json.loads(clip["truth"] or "{}").get("impacts", ())
    prompt = clip["prompt"] or ""
    return ReportClip(clip["clip_id"], prompt, path.read_bytes(), sounds, impacts, swapped)
