"""Figures of a checkpoint on the held-out clips of a dataset: does the sound keep the picture's time?

Onset F1 needs known impact times, which procedural clips have; other clips are left out of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from model.device import default_device
from model.foley import FoleyControl
from model.metrics.onsets import sync_score
from model.training.trainer import validate
from pipeline.evaluation.conditions import other_material
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse import Warehouse
from warehouse.files import identity_hash

EVALUATION_VERSION = 1


def truths_of(wh: Warehouse, clip_ids: list[str]) -> dict[str, dict[str, Any]]:
    """What is known of each clip that has known impacts."""
    rows = wh.clips(columns=["clip_id", "truth"], clip_ids=clip_ids).to_pylist()
    known = {row["clip_id"]: json.loads(row["truth"]) for row in rows if row["truth"]}
    return {clip: truth for clip, truth in known.items() if "impacts" in truth}


def score_condition(
    rows: list[dict[str, Any]], truths: Mapping[str, dict[str, Any]]
) -> dict[str, float | None]:
    """Agreement of the onsets of generated sounds with the impacts of their clips.

    None where none is known.
    """
    known = [row for row in rows if row["clip_id"] in truths]
    impacts = [np.array(truths[row["clip_id"]]["impacts"], float) for row in known]
    sync = sync_score(impacts, [np.array(json.loads(row["onsets"]), float) for row in known])
    return {
        name: None if value is None or not known else round(value, 4)
        for name, value in asdict(sync).items()
    }


def material_accuracy(rows: list[dict[str, Any]], expected: Mapping[str, str]) -> float | None:
    """Share of generated sounds that resemble the expected material most."""
    hits = [
        row["material"] == expected[row["clip_id"]] for row in rows if row["clip_id"] in expected
    ]
    return round(float(np.mean(hits)), 4) if hits else None


def held_out_v_loss(data: DatasetFeatures, checkpoint: Checkpoint) -> dict[str, float]:
    """v-loss on the test split with true, null and another clip's video, same times and noise."""
    foley = FoleyControl.from_pretrained(data.preset, checkpoint.path, default_device())
    losses = validate(foley.backbone, foley.bridge, data.batches("test"), seed=0)
    return {name: round(value, 5) for name, value in asdict(losses).items()}


def evaluate(data: DatasetFeatures, checkpoint: Checkpoint) -> dict[str, Any]:
    """Score the generated sounds of the four conditions (`data.fingerprints` holds their stages too).

    The result is kept as an `evaluations` record; an evaluation of the same sounds is found again.
    """
    wh, dataset, fingerprints = data.wh, data.dataset, dict(data.fingerprints)
    id = identity_hash([EVALUATION_VERSION, checkpoint.id, dataset.version, fingerprints])
    if known := [record for record in wh.records("evaluations") if record["id"] == id]:
        return known[0]["figures"]
    truths = truths_of(wh, dataset.clip_ids(split="test"))
    columns = ["clip_id", "onsets", "material"]
    rows = {
        name: wh.rows(stage, fingerprints[stage], columns=columns).to_pylist()
        for name in ("true", "other", "none", "swap")
        for stage in (f"generate_{name}",)
    }
    materials = {clip: truth["material"] for clip, truth in truths.items()}
    swapped = {clip: other_material(material) for clip, material in materials.items()}
    swap = score_condition(rows["swap"], truths)
    figures: dict[str, Any] = {
        "clips": len(truths),
        "sync": {name: score_condition(rows[name], truths) for name in ("true", "other", "none")},
        "v_loss": held_out_v_loss(data, checkpoint),
        "material_accuracy": material_accuracy(rows["true"], materials),
        "prompt_swap": {
            "material_accuracy": material_accuracy(rows["swap"], swapped),
            "f1_60ms": swap["f1_60ms"],
        },
    }
    record = {
        "created_at": datetime.now(UTC).isoformat(),
        "checkpoint": checkpoint.id,
        "dataset": dataset.version,
        "system": "foley-control",
    }
    wh.write_record("evaluations", id, record | {"preset": data.preset.name, "figures": figures})
    return figures
