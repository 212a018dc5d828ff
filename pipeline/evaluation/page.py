"""Gathers what the evaluation's page shows.

The worst and best clips with everyone's sound, and figures by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.metrics.onsets import detect_onsets
from model.presets.preset import Preset
from pipeline.evaluation import tables
from pipeline.evaluation.run import Evaluation
from pipeline.evaluation.scoring import BY_CLIP
from pipeline.evaluation.sets import EvaluationSet, Item, System
from pipeline.media import MediaError, read_audio
from pipeline.report import ReportClip, ReportSound
from pipeline.report.evaluation import Column, EvaluationPage, slug, write_evaluation_page

PLAYERS = 12
PLAYABLE = frozenset({".mp4", ".m4v", ".webm"})
_TOY = (
    "These networks are the toy's: small, and trained by this project on procedural clips. Their figures compare "
    "systems on such clips with each other, and with no published figure."
)


def write_page(
    path: Path,
    found: Evaluation,
    evaluated: EvaluationSet,
    systems: Sequence[System],
    preset: Preset,
) -> None:
    """Write the HTML page of an evaluation."""
    chosen = worst_and_best(found.clips, [item.name for item in evaluated.items])
    items = {item.name: item for item in evaluated.items}
    column = {
        m: Column(m, t, tables.LESS_IS_BETTER[m], m != tables.NOT_COMPARABLE)
        for m, t in tables.TITLES.items()
    }
    measured = {
        metric for clips in found.clips.values() for row in clips.values() for metric in row
    }
    page = EvaluationPage(
        set_name=found.set_name,
        columns=[column[m] for m in tables.columns(found.systems)],
        clip_columns=[column[m] for m in tables.TITLES if m in measured],
        systems=found.systems,
        counts=found.counts,
        scores=found.clips,
        comparisons=[
            dict(row) | {"title": tables.TITLES[row["metric"]]} for row in found.comparisons
        ],
        published=tables.published(),
        provenance=dict(found.provenance) | {"stages": _lines(found.provenance.get("stages", {}))},
        prompts={item.name: item.prompt for item in evaluated.items},
        clips=[
            made for name in chosen if (made := _clip(items[name], systems, preset)) is not None
        ],
        notes=[_TOY] if preset.untrained else [],
    )
    write_evaluation_page(path, page)


def _lines(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The settings of each stage in one line."""
    return {
        name: json.dumps(settings).strip("{}").replace('"', "") for name, settings in stages.items()
    }


def worst_and_best(
    clips: Mapping[str, Mapping[str, Mapping[str, float]]],
    names: Sequence[str],
    count: int = PLAYERS,
) -> list[str]:
    """Names of the clips on which the first system does worst, then best, by its mean rank over the clip metrics."""
    scores = next(iter(clips.values()), {})
    known = [name for name in names if scores.get(name)]
    ranks = np.zeros(len(known))
    for metric in BY_CLIP:
        sign = 1 if tables.LESS_IS_BETTER[metric] else -1
        values = np.array([sign * scores[n].get(metric, np.inf) for n in known])
        ranks += np.argsort(np.argsort(values, kind="stable"), kind="stable")
    ordered = [known[i] for i in np.argsort(-ranks, kind="stable")]
    half = count // 2
    return ordered if len(ordered) <= count else ordered[:half] + ordered[-half:]


def _clip(item: Item, systems: Sequence[System], preset: Preset) -> ReportClip | None:
    """A clip with the reference and every system's sound.

    None for a picture that no browser plays.
    """
    if item.video.suffix.lower() not in PLAYABLE:
        return None
    files = {"original": item.reference} | {
        slug(s.name): s.sounds[item.name] for s in systems if item.name in s.sounds
    }
    truth = item.truth or {}
    sounds: dict[str, ReportSound] = {}
    for name, path in files.items():
        try:
            audio = read_audio(path, preset.sample_rate, max_seconds=preset.evaluation_seconds)
        except MediaError:
            continue  # counted among the broken ones
        onsets = detect_onsets(audio, preset.sample_rate).tolist() if truth.get("impacts") else ()
        sounds[name] = ReportSound(audio, preset.sample_rate, onsets)
    return ReportClip(
        item.name,
        item.prompt or item.name,
        item.video.read_bytes(),
        sounds,
        truth.get("impacts", ()),
    )


def summary(found: Evaluation, written: Mapping[str, Path]) -> str:
    """What the command prints: the table, what was wrong with files, and where everything is."""
    lines = [tables.markdown(found.set_name, found.systems, found.counts)]
    for name, count in found.counts.items():
        lines += [
            f"{name}: {tables.TITLES[m]} could not be measured: {why}"
            for m, why in count["unmeasured"].items()
        ]
        if len(count["formats"]) > 1:
            lines.append(
                f"{name}: "
                + ", ".join(f"{number} of {kind}" for kind, number in count["formats"].items())
            )
        wrong = {
            k: count[k]
            for k in ("missing", "broken", "silent", "short", "clipped", "unknown_files")
            if count[k]
        }
        if wrong:
            lines.append(
                f"{name}: " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in wrong.items())
            )
            lines += [f"  {clip}: {why}" for clip, why in list(count["problems"].items())[:10]]
    lines += [f"{name}: {path}" for name, path in written.items()]
    return "\n".join(lines)
