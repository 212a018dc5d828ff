"""The held-out clips of a checkpoint as an evaluation set, and the sounds made for them as systems like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.evaluation.sets import EvaluationSet, Item, System, system
from pipeline.training.checkpoints import Checkpoint
from warehouse import Dataset, Warehouse
from warehouse.files import make_folder, write_file

SYSTEMS = {"true": "foley-control", "other": "another-clips-video", "none": "text-only"}


def name_of(clip_id: str) -> str:
    """A clip's id as a file's name."""
    return clip_id.replace("/", "_")


def held_out_set(wh: Warehouse, dataset: Dataset) -> EvaluationSet:
    """The test split of a dataset; the clips' own sound is the reference."""
    items: list[Item] = []
    for row in wh.clips(None, dataset.clip_ids(split="test")).to_pylist():
        truth = json.loads(row["truth"]) if row["truth"] else None
        path = Path(row["path"])
        items.append(
            Item(
                name_of(row["clip_id"]), path, path, row["prompt"] or "", row["label"] or "", truth
            )
        )
    return EvaluationSet(f"held-out.{dataset.version}", tuple(items))


def held_out_systems(
    wh: Warehouse, evaluated: EvaluationSet, checkpoint: Checkpoint, fps: Mapping[str, str]
) -> list[System]:
    """Write the generated sounds (fps.

    Fingerprints of their stages) as WAV files, and take them as systems.
    """
    names = {item.name for item in evaluated.items}
    systems: list[System] = []
    for condition, title in SYSTEMS.items():
        stage = f"generate_{condition}"
        folder = make_folder(
            wh.folder("systems") / "sounds" / f"{checkpoint.id}-{fps[stage]}" / condition
        )
        for row in wh.rows(stage, fps[stage], columns=["clip_id", "sound"]).to_pylist():
            path = folder / f"{name_of(row['clip_id'])}.wav"
            if path.stem in names and not (
                path.is_file() and path.stat().st_size == len(row["sound"])
            ):
                write_file(folder, lambda handle, data=row["sound"]: handle.write(data), path)
        systems.append(system(title, folder, evaluated.items))
    return systems
