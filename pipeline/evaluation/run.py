"""One evaluation from end to end, apart from who runs the stages.

Bring in, score, record, write the tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from model.presets.preset import Preset
from pipeline.curation.sources import SCHEMA
from pipeline.evaluation import tables
from pipeline.evaluation.scoring import (
    Kept,
    Samples,
    clip_scores,
    comparisons,
    counts,
    load,
    summarise,
)
from pipeline.evaluation.sets import EvaluationSet, System
from warehouse import Warehouse
from warehouse.files import identity_hash, make_folder, write_file

VERSION = 2  # raised when the same features give other figures


@dataclass(frozen=True)
class Clips:
    """Ids of the clips of an evaluation in its warehouse, those whose sound is heard and those that are watched."""

    sounds: tuple[str, ...]
    videos: tuple[str, ...]


def workshop(home: Path) -> Warehouse:
    """The warehouse of evaluation files and features, under HOME/systems."""
    return Warehouse(home / "systems")


def ingest_files(wh: Warehouse, evaluated: EvaluationSet, systems: Sequence[System]) -> Clips:
    """Note every file of the set and of the systems in the warehouse.

    A file that did not change is not read again.
    """
    rows: list[dict[str, Any]] = []

    def add(id: str, path: Path, source: str) -> str:
        rows.append({"clip_id": id, "path": str(path.absolute()), "source": source})
        return id

    name = evaluated.name
    sounds = [
        add(f"reference/{name}/{i.name}", i.reference, f"reference.{name}") for i in evaluated.items
    ]
    videos = [add(f"video/{name}/{i.name}", i.video, f"video.{name}") for i in evaluated.items]
    for system in systems:
        prefix = f"system/{system.name}/{name}/"
        sounds += [
            add(prefix + n, path, f"system.{system.name}")
            for n, path in sorted(system.sounds.items())
        ]
    wh.ingest(pa.Table.from_pylist(rows, SCHEMA))
    return Clips(tuple(sounds), tuple(videos))


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Figures, counts and clip scores by system, comparisons, and what they came about under.
    """

    id: str
    set_name: str
    systems: Mapping[str, tables.Figures]
    counts: Mapping[str, Mapping[str, Any]]
    clips: Mapping[str, Mapping[str, Mapping[str, float]]]
    comparisons: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]


def score(
    wh: Warehouse,
    evaluated: EvaluationSet,
    systems: Sequence[System],
    fps: Mapping[str, str],
    preset: Preset,
    provenance: Mapping[str, Any],
    resamples: int = 200,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Figures of every system from the features that the stages kept (fps: their fingerprints).

    `advance` is called after each system, and at the end.
    """
    from model.networks.synchformer import Synchformer

    hearing = {n: f for n, f in fps.items() if n == "sound" or n.startswith("hear_")}
    watching = {n: f for n, f in fps.items() if n.startswith("watch_")}
    name = evaluated.name
    names = {item.name for item in evaluated.items}
    reference = _only(load(wh, hearing, f"reference/{name}/"), names)
    video = _only(load(wh, watching, f"video/{name}/"), names)
    kept = {
        s.name: _only(load(wh, hearing, f"system/{s.name}/{name}/"), set(s.sounds)) for s in systems
    }
    compare = Synchformer.from_pretrained(preset).offset_logits
    seconds, samples = preset.evaluation_seconds, Samples(reference, kept, resamples)
    clips: dict[str, dict[str, dict[str, float]]] = {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    said: dict[str, dict[str, Any]] = {}
    for s in systems:
        party = kept[s.name]
        clips[s.name] = clip_scores(evaluated.items, reference, video, party, compare)
        found[s.name], unmeasured = summarise(s.name, clips[s.name], reference, party, samples)
        said[s.name] = counts(evaluated, party, s.missing, s.unknown, seconds) | {
            "unmeasured": unmeasured
        }
        advance()
    about = dict(provenance) | {
        "fingerprints": dict(fps),
        "seconds": seconds,
        "resamples": resamples,
        "set": {
            "name": name,
            "videos": len(evaluated.items),
            "missing videos": list(evaluated.missing),
            "unusable references": dict(reference.broken),
            "unusable videos": dict(video.broken),
        },
    }
    tests = comparisons(clips, kept, samples)
    advance()
    return Evaluation(
        _identity(wh, evaluated, systems, fps, resamples), name, found, said, clips, tests, about
    )


def _identity(
    wh: Warehouse,
    evaluated: EvaluationSet,
    systems: Sequence[System],
    fps: Mapping[str, str],
    resamples: int,
) -> str:
    """The same files under the same settings have the same id."""
    name, used = (
        evaluated.name,
        {item.name for item in evaluated.items}.union(*(s.sounds for s in systems)),
    )
    files = wh.clips(["clip_id", "sha256"], status=None).to_pylist()
    hashes = sorted(
        (row["clip_id"], row["sha256"])
        for row in files
        if row["clip_id"].partition(f"/{name}/")[2] in used
    )
    identity = [
        VERSION,
        name,
        dict(fps),
        resamples,
        [(s.name, sorted(s.sounds), s.missing) for s in systems],
        hashes,
    ]
    return identity_hash(identity)


def _only(kept: Kept, names: set[str]) -> Kept:
    """What is kept of the files that are there now.

    One that was there in an earlier evaluation no longer counts.
    """
    return replace(
        kept,
        stages={
            stage: {n: h for n, h in rows.items() if n in names}
            for stage, rows in kept.stages.items()
        },
        checks={n: row for n, row in kept.checks.items() if n in names},
        broken={n: why for n, why in kept.broken.items() if n in names},
    )


def record(wh: Warehouse, found: Evaluation, preset: Preset, checkpoint: str | None = None) -> None:
    """Keep one `evaluations` record a system in the warehouse of the home folder."""
    now = datetime.now(UTC).isoformat()
    for name, figures in found.systems.items():
        row: dict[str, Any] = {
            "created_at": now,
            "system": name,
            "preset": preset.name,
            "set": found.set_name,
            "figures": figures,
        }
        row["checkpoint"] = checkpoint
        details = {
            "counts": found.counts[name],
            "clips": found.clips[name],
            "provenance": found.provenance,
        }
        safe = hashlib.sha256(f"{found.id}/{name}".encode()).hexdigest()[:16]
        wh.write_record("evaluations", safe, row | details)


def write_tables(folder: Path, found: Evaluation) -> dict[str, Path]:
    """Write table2.md, table2.csv, table2.tex and evaluation.json into `folder`; where each is."""
    make_folder(folder)
    contents = {
        "table2.md": tables.markdown(found.set_name, found.systems, found.counts),
        "table2.csv": tables.as_csv(found.systems, found.counts),
        "table2.tex": tables.latex(found.set_name, found.systems),
        "evaluation.json": json.dumps(
            {
                "id": found.id,
                "systems": found.systems,
                "counts": found.counts,
                "comparisons": found.comparisons,
                "clips": found.clips,
                "provenance": found.provenance,
            },
            indent=1,
        ),
    }
    for name, text in contents.items():
        write_file(folder, lambda handle, text=text: handle.write(text.encode()), folder / name)
    return {name: folder / name for name in contents}
