"""From kept features to Table 2: scores of every clip, means with intervals, and tests between systems."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from model.metrics import (
    MetricError,
    cosine,
    desync,
    frechet_distance,
    inception_score,
    interval,
    kl_divergence,
    mean_interval,
    paired_p,
    resampled,
)
from model.onsets import sync_score
from pipeline.evaluation.reading import SILENT_DB
from pipeline.evaluation.sets import EvaluationSet, Item
from warehouse import Warehouse

Array = npt.NDArray[np.float32]
SHORT_BY = 0.5  # a sound that ends so many seconds before its video, or before what is compared, is short

#: metric -> whether less is better; in the order of the paper's Table 2, then what it does not have
METRICS: dict[str, bool] = {
    "kl_panns": True,
    "kl_passt": True,
    "ib": False,
    "fd_vgg": True,
    "fd_panns": True,
    "fd_passt": True,
    "desync": True,
    "is": False,
}
BY_CLIP = ("kl_panns", "kl_passt", "ib", "desync")
_FEATURES = {"fd_vgg": "hear_vggish", "fd_panns": "hear_panns", "fd_passt": "hear_passt"}


@dataclass(frozen=True)
class Heard:
    """Features [pieces, D] and logits [classes] (empty without) of one clip."""

    features: Array
    logits: Array


@dataclass(frozen=True)
class Kept:
    """What the stages kept of one party (the reference, or a system), by clip name."""

    stages: Mapping[str, Mapping[str, Heard]]
    checks: Mapping[str, Mapping[str, Any]]
    broken: Mapping[str, str]  # clip name -> why its sound cannot be used


def load(wh: Warehouse, fps: Mapping[str, str], prefix: str) -> Kept:
    """What is kept of the clips whose ids begin with `prefix`, by the rest of the id."""
    ids = [id for id in wh.clips(["clip_id"], status=None)["clip_id"].to_pylist() if id.startswith(prefix)]
    stages: dict[str, dict[str, Heard]] = {}
    checks: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for stage, fingerprint in fps.items():
        for row in wh.rows(stage, fingerprint, status=None, clip_ids=ids).to_pylist():
            name = row["clip_id"].removeprefix(prefix)
            if row["status"] != "passed":
                broken.setdefault(name, str(row["message"] or row["reason"] or row["error"]))
            elif stage == "sound":
                checks[name] = row
            else:
                stages.setdefault(stage, {})[name] = _heard(stage, row)
    return Kept(stages, checks, broken)


def _heard(stage: str, row: Mapping[str, Any]) -> Heard:
    features = np.frombuffer(row[f"{stage}_features"], "<f4").reshape(row[f"{stage}_pieces"], -1)
    return Heard(features, np.frombuffer(row[f"{stage}_logits"], "<f4"))


def _feature(side: Any, stage: str, name: str) -> Any:
    """What a stage made of a clip, or None."""
    return side.stages.get(stage, {}).get(name)


def clip_scores(
    items: Sequence[Item],
    reference: Kept,
    video: Kept,
    system: Kept,
    compare: Callable[[Array, Array], Array],
) -> dict[str, dict[str, float]]:
    """Scores of each clip that has a usable sound: name -> metric -> value.

    `compare` is Synchformer's `offset_logits`. A metric whose other side is unusable (a broken reference for KL, a
    broken video for IB) is missing from that clip.
    """
    scores: dict[str, dict[str, float]] = {}
    for item in items:
        name = item.name
        if name not in system.checks:
            continue
        row: dict[str, float] = {}
        for metric, stage in (("kl_panns", "hear_panns"), ("kl_passt", "hear_passt")):
            a, b = reference.stages.get(stage, {}).get(name), system.stages.get(stage, {}).get(name)
            if a and b:
                row[metric] = float(kl_divergence(a.logits[None], b.logits[None])[0])
        seen, heard = _feature(video, "watch_imagebind", name), _feature(system, "hear_imagebind", name)
        if seen and heard:
            row["ib"] = float(cosine(seen.features, heard.features)[0])
        seen, heard = _feature(video, "watch_synchformer", name), _feature(system, "hear_synchformer", name)
        if seen and heard:
            row["desync"] = float(desync(compare(seen.features[None], heard.features[None]))[0])
        row |= _known(item, system.checks[name])
        scores[name] = row
    return scores


def _known(item: Item, check: Mapping[str, Any]) -> dict[str, float]:
    """What only clips of known impact times can give: onset F1, and by how much the sound is late (s)."""
    if not item.truth or "impacts" not in item.truth:
        return {}
    impacts, onsets = np.array(item.truth["impacts"], float), np.array(json.loads(check["sound_onsets"]), float)
    found = {"onset_f1": sync_score([impacts], [onsets]).f1_60ms}
    if len(impacts) and len(onsets):
        found["true_offset"] = best_offset(impacts, onsets)
    return found


def best_offset(impacts: npt.NDArray[np.float64], onsets: npt.NDArray[np.float64]) -> float:
    """The shift (s) in -2..2 by which the onsets are late, as most of them agree: the peak of all differences."""
    grid = np.linspace(-2, 2, 401)
    apart = (onsets[:, None] - impacts[None]).ravel()
    agreement = np.exp(-((apart[None] - grid[:, None]) ** 2) / (2 * 0.04**2)).sum(1)
    return float(grid[np.argmax(agreement - 1e-6 * np.abs(grid))])


def counts(
    evaluated: EvaluationSet, system: Kept, missing: Sequence[str], unknown: Sequence[str], seconds: float
) -> dict[str, Any]:
    """How many videos have a sound, and what is wrong with the others: numbers, and names with reasons."""
    problems: dict[str, str] = dict.fromkeys(missing, "missing: there is no file of this name")
    problems |= {name: f"broken: {why.split(': ', 1)[-1]}" for name, why in system.broken.items()}
    silent = [n for n, check in system.checks.items() if check["sound_peak_db"] < SILENT_DB]
    short = [n for n, check in system.checks.items() if check["sound_seconds"] < seconds - SHORT_BY]
    clipped = [n for n, check in system.checks.items() if check["sound_clipped_share"] > 0.01]
    problems |= dict.fromkeys(silent, "silent, scored as it is")
    problems |= {n: f"short ({system.checks[n]['sound_seconds']:.2f} s), scored as it is" for n in short}
    return {
        "videos": len(evaluated.items),
        "scored": len(system.checks),
        "missing": len(missing),
        "broken": len(system.broken),
        "silent": len(silent),
        "short": len(short),
        "clipped": len(clipped),
        "unknown_files": len(unknown),
        "problems": dict(sorted(problems.items())),
        "unknown": list(unknown)[:50],
    }


def set_scores(reference: Kept, system: Kept) -> dict[str, float]:
    """Metrics of the whole set: Frechet distances to the reference's sounds, and the inception score."""
    found: dict[str, float] = {}
    for metric, stage in _FEATURES.items():
        try:
            found[metric] = frechet_distance(_pieces(system, stage), _pieces(reference, stage))
        except MetricError:
            continue  # fewer than two sounds: the table shows a dash
    logits = [heard.logits for heard in system.stages.get("hear_panns", {}).values()]
    if logits:
        found["is"] = inception_score(np.stack(logits))
    return found


def _pieces(kept: Kept, stage: str, names: Sequence[str] | None = None) -> Array:
    rows = kept.stages.get(stage, {})
    return np.concatenate(
        [rows[n].features for n in (sorted(rows) if names is None else names)] or [np.zeros((0, 1), np.float32)]
    )


def fd_samples(
    reference: Kept, system: Kept, metric: str, names: Sequence[str], resamples: int
) -> npt.NDArray[np.float64]:
    """Frechet distances of bootstrap samples of clips; the same `names` and `resamples` make systems paired."""
    stage = _FEATURES[metric]
    fixed = _pieces(reference, stage)

    def once(rows: npt.NDArray[np.int64]) -> float:
        drawn = [names[int(i)] for i in rows]
        return frechet_distance(_pieces(system, stage, drawn), fixed)

    return resampled(once, len(names), resamples)


def summarise(
    scores: Mapping[str, Mapping[str, float]], reference: Kept, system: Kept, resamples: int
) -> dict[str, dict[str, float]]:
    """Metric -> value, low, high (95% bootstrap over clips) and the number of clips behind it.

    Samples drawn with replacement lie farther from the reference than the set itself; an FD's interval is therefore
    their spread around their own mean, laid around the value.
    """
    figures: dict[str, dict[str, float]] = {}
    for metric in (*BY_CLIP, "onset_f1", "true_offset"):
        values = [
            abs(row[metric]) if metric == "true_offset" else row[metric] for row in scores.values() if metric in row
        ]
        if values:
            figures[metric] = {**asdict(mean_interval(np.array(values))), "clips": len(values)}
    whole = set_scores(reference, system)
    for metric, value in whole.items():
        names = sorted(system.stages[_FEATURES.get(metric, "hear_panns")])
        figures[metric] = {"value": value, "clips": len(names)}
        if metric in _FEATURES and resamples:
            drawn = fd_samples(reference, system, metric, names, resamples)
            spread = interval(value, value + drawn - drawn.mean())
            figures[metric] |= {"low": max(0.0, spread.low), "high": spread.high}
    return figures


def comparisons(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    reference: Kept,
    kept: Mapping[str, Kept],
    resamples: int,
) -> list[dict[str, Any]]:
    """Every pair of systems on the clips that both have: difference of each metric, and the p of no difference."""
    rows: list[dict[str, Any]] = []
    for a, b in combinations(scores, 2):
        for metric in BY_CLIP:
            names = [n for n in scores[a] if metric in scores[a][n] and metric in scores[b].get(n, {})]
            if len(names) < 2:
                continue
            x, y = (np.array([scores[s][n][metric] for n in names]) for s in (a, b))
            row = {"a": a, "b": b, "metric": metric, "difference": float((x - y).mean()), "clips": len(names)}
            rows.append(row | {"p": paired_p(x, y)})
        for metric, stage in _FEATURES.items() if resamples else ():
            names = sorted(set(kept[a].stages.get(stage, {})) & set(kept[b].stages.get(stage, {})))
            if len(names) < 2:
                continue
            apart = fd_samples(reference, kept[a], metric, names, resamples) - fd_samples(
                reference, kept[b], metric, names, resamples
            )
            below = float((apart < 0).mean() + 0.5 * (apart == 0).mean())
            p = max(2 * min(below, 1 - below), 1 / resamples)
            row = {"a": a, "b": b, "metric": metric, "difference": float(apart.mean()), "clips": len(names)}
            rows.append(row | {"p": p})
    return rows
