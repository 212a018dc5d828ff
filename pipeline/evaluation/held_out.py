"""The held-out clips of a checkpoint: its sounds for them as systems, and their onset figures.

Onset F1 asks whether a sound keeps the picture's time. It needs known impact times, which
procedural clips have; other clips are left out of it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from model.foley import FoleyControl
from model.metrics.onsets import sync_score
from model.training.validation import validate
from model.weights.device import choose_device
from pipeline.evaluation.conditions import CONDITIONS, Condition, is_world, swap_of
from pipeline.evaluation.results import EvaluationRecord, figure_of
from pipeline.evaluation.sets import EvaluationSet, Item, System, system
from pipeline.evaluation.worlds.figures import WORLD_FIGURES, WorldFigures
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse import Warehouse
from warehouse.files import Json, identity_hash, make_folder, write_file

VERSION = 3  # raised when the same sounds give other figures, or records of another form
#: Condition of a sound -> the system that it is in tables and records.
SYSTEMS = {
    "true": "foley-control",
    "other": "another-clips-video",
    "none": "text-only",
    "swap": "prompt-swapped",
    "video": "without-prompt",
}
CHUNK = 64  # sounds held at once
Figures = Mapping[str, Mapping[str, float]]  # by metric, as a record has them
#: What results.json says of worlds -> condition, figure, and what of it.
_WORLDS: Mapping[str, tuple[Condition, str, str]] = {
    **{name: ("true", name, "value") for name in WORLD_FIGURES},
    "pairs": ("true", "cause", "clips"),
    "visible_material_accuracy": ("video", "material_accuracy", "value"),
    "f1_60ms_without_prompt": ("video", "f1_60ms", "value"),
}
_COMPARED = ("true", "other", "none")  # with the prompt as it is, and so with the reference


def held_out_set(data: DatasetFeatures) -> EvaluationSet:
    """The held-out clips of a dataset; their own sound is the reference."""
    items: list[Item] = []
    for row in data.wh.clips(None, data.held_out_clips()).to_pylist():
        truth = json.loads(row["truth"]) if row["truth"] else None
        name, path = _file_name(row["clip_id"]), Path(row["path"])
        items.append(Item(name, path, path, row["prompt"] or "", row["label"] or "", truth))
    return EvaluationSet(data.held_out_name, tuple(items))


def held_out_systems(
    data: DatasetFeatures, checkpoint: Checkpoint, items: Sequence[Item]
) -> list[System]:
    """Write the generated sounds as WAV files, and match them to the videos as systems.

    The fingerprints in `data` are of all stages, those of generation included.
    """
    names = {item.name for item in items}
    systems: list[System] = []
    for condition in _COMPARED:
        stage = f"generate_{condition}"
        name = f"{checkpoint.id}-{data.fingerprints[stage]}"
        folder = make_folder(data.wh.folder("systems") / "sounds" / name / condition)
        clips = data.held_out_clips()
        for start in range(0, len(clips), CHUNK):
            rows = data.rows(stage, ("sound",), clips[start : start + CHUNK])
            for clip, row in rows.items():
                path = folder / f"{_file_name(clip)}.wav"
                if path.stem in names and not path.is_file():
                    write_file(folder, lambda handle, wav=row["sound"]: handle.write(wav), path)
        systems.append(system(SYSTEMS[condition], folder, items))
    return systems


def _file_name(clip_id: str) -> str:
    return clip_id.replace("/", "_")


def evaluate(data: DatasetFeatures, checkpoint: Checkpoint) -> Json:
    """Figures of the sounds generated under all conditions, as results.json has them.

    Each condition is a record of the catalog's `evaluations`; records of the same sounds are used
    again. The fingerprints in `data` are of all stages, those of generation included.
    """
    identity = [VERSION, checkpoint.id, data.held_out_name, dict(data.fingerprints)]
    asked: list[Condition] = [c for c in CONDITIONS if f"generate_{c}" in data.fingerprints]
    ids = {condition: identity_hash([*identity, condition]) for condition in asked}
    records = {record["id"]: record for record in data.wh.records("evaluations")}
    if not all(id in records for id in ids.values()):
        for condition, figures in _figures(data, checkpoint, asked):
            record = record_of(data, checkpoint, ids[condition], SYSTEMS[condition], figures)
            records[record.id] = record.write(data.wh)

    def value(condition: str, name: str, key: str = "value") -> float | None:
        record = records[ids[condition]] if condition in ids else {"figures": {}}
        return record["figures"].get(name, {}).get(key)

    names = ("f1_60ms", "f1_100ms", "mae_ms")
    losses = {"true": "true", "null": "none", "other": "other"}
    return {
        "clips": value("true", "f1_60ms", "clips") or 0,
        "sync": {c: {name: value(c, name) for name in names} for c in _COMPARED},
        "v_loss": {name: value(condition, "v_loss") for name, condition in losses.items()},
        "material_accuracy": value("true", "material_accuracy"),
        "prompt_swap": {
            "material_accuracy": value("swap", "material_accuracy"),
            "f1_60ms": value("swap", "f1_60ms"),
        },
        "worlds": {
            name: found for name, keys in _WORLDS.items() if (found := value(*keys)) is not None
        },
    }


def record_of(
    data: DatasetFeatures, checkpoint: Checkpoint, id: str, system: str, figures: Figures
) -> EvaluationRecord:
    """The record of a system of a checkpoint on the held-out clips."""
    on = data.preset.name, data.held_out_name
    return EvaluationRecord(id, system, *on, figures, checkpoint.id, data.dataset.version)


def _figures(
    data: DatasetFeatures, checkpoint: Checkpoint, conditions: Sequence[Condition]
) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    """Each condition with its figures."""
    truths = truths_of(data.wh, data.held_out_clips())
    losses, held_out = _v_losses(data, checkpoint)
    worlds = WorldFigures(data, truths)
    for condition in conditions:
        heard = data.rows(f"generate_{condition}", ("onsets", "material"))
        rows = [row for clip, row in heard.items() if clip in truths]
        values: dict[str, float | None] = dict(score_condition(rows, truths))
        if condition in ("true", "swap"):
            expected = materials_of(truths, swapped=condition == "swap")
            values["material_accuracy"] = material_accuracy(rows, expected)
        figures = {name: figure_of(value, len(rows)) for name, value in values.items()}
        if condition in losses:
            figures["v_loss"] = figure_of(losses[condition], held_out)
        found = worlds.of(condition)
        figures |= {
            name: figure_of(round(value, 4), count) for name, (value, count) in found.items()
        }
        yield condition, {name: figure for name, figure in figures.items() if figure}


def truths_of(wh: Warehouse, clip_ids: Sequence[str]) -> dict[str, Json]:
    """The truth of each clip whose impacts are known."""
    rows = wh.clips(["clip_id", "truth"], clip_ids).to_pylist()
    truths = {row["clip_id"]: json.loads(row["truth"]) for row in rows if row["truth"]}
    return {clip: truth for clip, truth in truths.items() if "impacts" in truth}


def materials_of(truths: Mapping[str, Json], *, swapped: bool = False) -> dict[str, str]:
    """The material of each procedural clip that can have another prompt, or that of this prompt.

    Worlds are heard by a judge of their own.
    """
    return {
        clip: swap["material"] if swapped else truth.get("material", "")
        for clip, truth in truths.items()
        if (swap := swap_of(truth)) and not is_world(truth)
    }


def score_condition(rows: Sequence[Json], truths: Mapping[str, Json]) -> dict[str, float | None]:
    """Agreement of the onsets of sounds with the impacts of their clips; None where none is known.

    Rows hold `clip_id` and `onsets`, a JSON list of seconds.
    """
    rows = [row for row in rows if row["clip_id"] in truths]
    impacts = [np.array(truths[row["clip_id"]]["impacts"], float) for row in rows]
    sync = sync_score(impacts, [np.array(json.loads(row["onsets"]), float) for row in rows])
    return {
        name: None if value is None or not rows else round(value, 4)
        for name, value in asdict(sync).items()
    }


def material_accuracy(rows: Sequence[Json], expected: Mapping[str, str]) -> float | None:
    """Share of generated sounds that resemble the expected material most."""
    hits = [r["material"] == expected[r["clip_id"]] for r in rows if r["clip_id"] in expected]
    return round(float(np.mean(hits)), 4) if hits else None


def _v_losses(data: DatasetFeatures, checkpoint: Checkpoint) -> tuple[dict[str, float], int]:
    """v-loss on the test split by condition, at the same times and noise, and the clips in it."""
    foley = FoleyControl.from_pretrained(data.preset, checkpoint.path, choose_device())
    batches = data.batches("test")
    losses = validate(foley.backbone, foley.bridge, batches, seed=0)
    values = {"true": losses.true, "none": losses.null, "other": losses.other}
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    rounded = {condition: round(value, 5) for condition, value in known.items()}
    return rounded, batches.clips
