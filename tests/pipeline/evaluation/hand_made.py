"""Features of systems by hand, so that every figure of an evaluation is known beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.evaluation.metrics import ClipFeatures, FileFeatures, Inputs
from pipeline.evaluation.sets import Item
from warehouse.files import Json

NOTHING = np.zeros(0)


def files(
    stages: Mapping[str, Mapping[str, object]] | None = None,
    checks: Mapping[str, Json] | None = None,
    broken: Mapping[str, str] | None = None,
) -> FileFeatures:
    """Of each stage, by clip, logits [classes], or features [pieces, D]: those have two axes."""
    found: dict[str, dict[str, ClipFeatures]] = {}
    for stage, clips in (stages or {}).items():
        arrays = {name: np.asarray(value, float) for name, value in clips.items()}
        found[stage] = {
            name: ClipFeatures(a, NOTHING) if a.ndim == 2 else ClipFeatures(NOTHING[None], a)
            for name, a in arrays.items()
        }
    return FileFeatures(found, checks or {}, broken or {})


def check(**changes: object) -> Json:
    """A row of the stage `sound`: a sound in which nothing is wrong."""
    row = {
        "sound_peak_db": -1.0,
        "sound_seconds": 8.0,
        "sound_clipped_share": 0.0,
        "sound_rate": 48_000,
        "sound_channels": 2,
        "sound_onsets": "[]",
    }
    return row | changes


def heard_at(*onsets: float) -> Json:
    """A row of the stage `sound` with these onsets (s)."""
    return check(sound_onsets=json.dumps(onsets))


def inputs(
    system: FileFeatures,
    reference: FileFeatures | None = None,
    video: FileFeatures | None = None,
    impacts: Mapping[str, list[float]] | None = None,
    names: str = "abc",
) -> Inputs:
    """A system on clips of one letter; pictures count ten classes of offsets each, sounds one."""
    truths = {name: {"impacts": times} for name, times in (impacts or {}).items()}
    items = [Item(n, Path(n), Path(n), truth=truths.get(n)) for n in names]

    def offset_logits(seen: np.ndarray, heard: np.ndarray) -> np.ndarray:
        classes = np.rint(10 * seen.sum((1, 2)) + heard.sum((1, 2))).astype(int)  # of the 21
        return np.repeat(np.eye(21)[classes][:, None], 2, axis=1)

    nothing = files()
    return Inputs(items, reference or nothing, video or nothing, system, offset_logits)
