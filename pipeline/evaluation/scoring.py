"""From kept features to Table 2.

Scores of every clip, means with intervals, and tests between systems.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from model.metrics.metrics import (
    MetricError,
    cosine,
    desync,
    frechet_distance,
    frechet_samples,
    inception_score,
    interval,
    kl_divergence,
    mean_interval,
    paired_p,
)
from model.metrics.onsets import sync_score
from pipeline.evaluation.sets import EvaluationSet, Item
from pipeline.media.mono import SILENT_DB
from warehouse import Warehouse

Array = npt.NDArray[np.float32]
SHORT_BY = 0.5  # a sound that ends so many seconds before what is compared is short
CHUNK = 16  # clips whose offsets are found at once
SPLITS = 10  # of an inception score, as in the benchmark; parts of one sound would all score 1
CLIPPED_SHARE = 0.01  # a sound with more of its samples at full scale is clipped
LOWEST_RATE = 16000  # Hz, of what the networks hear; a lower one says nothing of the highest bands
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}

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
    ids = [
        id
        for id in wh.clips(["clip_id"], status=None)["clip_id"].to_pylist()
        if id.startswith(prefix)
    ]
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

    `compare` is Synchformer's `offset_logits`. A metric whose other side is unusable (a broken
    reference for KL, a broken video for IB) is missing from that clip.
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
        seen, heard = (
            _feature(video, "watch_imagebind", name),
            _feature(system, "hear_imagebind", name),
        )
        if seen and heard:
            row["ib"] = float(cosine(seen.features, heard.features)[0])
        scores[name] = row | _known(item, system.checks[name])
    for name, offset in _offsets(list(scores), video, system, compare).items():
        scores[name]["desync"] = offset
    return scores


def _offsets(
    names: Sequence[str], video: Kept, system: Kept, compare: Callable[[Array, Array], Array]
) -> dict[str, float]:
    """DeSync of each clip that was seen and heard: name -> s.

    Clips with as many tokens go through together.
    """
    alike: dict[tuple[int, int], list[str]] = {}
    seen, heard = (
        side.stages.get(stage, {})
        for side, stage in ((video, "watch_synchformer"), (system, "hear_synchformer"))
    )
    for name in names:
        if name in seen and name in heard:
            alike.setdefault((len(seen[name].features), len(heard[name].features)), []).append(name)
    found: dict[str, float] = {}
    for group in alike.values():
        for start in range(0, len(group), CHUNK):
            part = group[start : start + CHUNK]
            logits = compare(
                *(np.stack([side[name].features for name in part]) for side in (seen, heard))
            )
            found |= dict(zip(part, desync(logits).tolist(), strict=True))
    return found


def _known(item: Item, check: Mapping[str, Any]) -> dict[str, float]:
    """What only clips of known impact times can give.

    Onset F1, and by how much the sound is late (s).
    """
    if not item.truth or "impacts" not in item.truth:
        return {}
    impacts, onsets = (
        np.array(item.truth["impacts"], float),
        np.array(json.loads(check["sound_onsets"]), float),
    )
    found = {"onset_f1": sync_score([impacts], [onsets]).f1_60ms}
    if len(impacts) and len(onsets):
        found["true_offset"] = best_offset(impacts, onsets)
    return found


def best_offset(impacts: npt.NDArray[np.float64], onsets: npt.NDArray[np.float64]) -> float:
    """The shift (s) in -2..2 by which the onsets are late, as most of them agree.

    The peak of all differences.
    """
    grid = np.linspace(-2, 2, 401)
    apart = (onsets[:, None] - impacts[None]).ravel()
    agreement = np.exp(-((apart[None] - grid[:, None]) ** 2) / (2 * 0.04**2)).sum(1)
    return float(grid[np.argmax(agreement - 1e-6 * np.abs(grid))])


def counts(
    evaluated: EvaluationSet,
    system: Kept,
    missing: Sequence[str],
    unknown: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """How many videos have a sound, in what formats, and what is wrong with which.

    Numbers, and names with reasons.
    """
    problems: dict[str, list[str]] = {
        name: ["missing: there is no file of this name"] for name in missing
    }
    problems |= {name: [f"broken: {why.split(': ', 1)[-1]}"] for name, why in system.broken.items()}
    wrong = Counter[str]()
    for name, check in system.checks.items():
        for kind, what in _complaints(check, seconds):
            problems.setdefault(name, []).append(f"{what}, scored as it is")
            wrong[kind] += 1
    formats = Counter(_format(check) for check in system.checks.values())
    return {
        "videos": len(evaluated.items),
        "scored": len(system.checks),
        "missing": len(missing),
        "broken": len(system.broken),
        **{kind: wrong[kind] for kind in ("silent", "short", "clipped")},
        "unknown_files": len(unknown),
        "problems": {name: "; ".join(said) for name, said in sorted(problems.items())},
        "unknown": list(unknown)[:50],
        "formats": dict(formats.most_common()),
    }


def _complaints(check: Mapping[str, Any], seconds: float) -> list[tuple[str, str]]:
    """(kind, sentence) of what may lower the scores of a sound."""
    found: list[tuple[str, str]] = []
    if check["sound_peak_db"] < SILENT_DB:
        found.append(("silent", "silent"))
    if check["sound_seconds"] < seconds - SHORT_BY:
        found.append(("short", f"short ({check['sound_seconds']:.2f} s)"))
    if check["sound_clipped_share"] > CLIPPED_SHARE:
        found.append(
            (
                "clipped",
                f"clipped ({check['sound_clipped_share']:.0%} of its samples at full scale)",
            )
        )
    if check["sound_rate"] < LOWEST_RATE:
        found.append(
            (
                "dull",
                f"sampled at {check['sound_rate'] / 1000:g} kHz (nothing above half of that is in it)",
            )
        )
    if check["sound_channels"] > 2:
        found.append(
            (
                "surround",
                f"{_LAYOUTS.get(check['sound_channels'], 'surround')} (heard as the mean of all)",
            )
        )
    return found


def _format(check: Mapping[str, Any]) -> str:
    channels = check["sound_channels"]
    return f"{check['sound_rate'] / 1000:g} kHz {_LAYOUTS.get(channels, f'{channels} channels')}"


def set_scores(reference: Kept, system: Kept) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics of the whole set (Frechet distances to the reference's sounds, inception score), and why one is not."""
    found: dict[str, float] = {}
    unmeasured: dict[str, str] = {}
    for metric, stage in _FEATURES.items():
        try:
            found[metric] = frechet_distance(_pieces(system, stage), _pieces(reference, stage))
        except MetricError as error:
            unmeasured[metric] = str(error)
    logits = [heard.logits for heard in system.stages.get("hear_panns", {}).values()]
    if len(logits) >= 2 * SPLITS:
        found["is"] = inception_score(np.stack(logits), SPLITS)
    else:
        unmeasured["is"] = (
            f"an inception score in {SPLITS} parts needs at least {2 * SPLITS} sounds, not {len(logits)}"
        )
    return found, unmeasured


def _pieces(kept: Kept, stage: str) -> Array:
    rows = kept.stages.get(stage, {})
    return np.concatenate(
        [rows[name].features for name in sorted(rows)] or [np.zeros((0, 1), np.float32)]
    )


class Samples:
    """Frechet distances of bootstrap samples of each system's clips.

    Drawn once, for intervals and for every pair.
    """

    def __init__(self, reference: Kept, kept: Mapping[str, Kept], resamples: int) -> None:
        self._kept, self.resamples = kept, resamples
        self._fixed = {metric: _pieces(reference, stage) for metric, stage in _FEATURES.items()}
        self._drawn: dict[tuple[str, str, tuple[str, ...]], npt.NDArray[np.float64]] = {}

    def __call__(self, system: str, metric: str, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Distances [resamples]; those of two systems on the same `names` are paired."""
        key = (system, metric, tuple(names))
        if key not in self._drawn:
            rows = self._kept[system].stages[_FEATURES[metric]]
            features = [rows[name].features for name in names]
            self._drawn[key] = frechet_samples(features, self._fixed[metric], self.resamples)
        return self._drawn[key]


def summarise(
    name: str,
    scores: Mapping[str, Mapping[str, float]],
    reference: Kept,
    system: Kept,
    samples: Samples,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Metric -> value, low, high (95% bootstrap over clips) and the number of clips behind it; and why one is missing.

    Samples drawn with replacement lie farther from the reference than the set itself; an FD's
    interval is therefore their spread around their own mean, laid around the value.
    """
    figures: dict[str, dict[str, float]] = {}
    for metric in (*BY_CLIP, "onset_f1", "true_offset"):
        values = [
            abs(row[metric]) if metric == "true_offset" else row[metric]
            for row in scores.values()
            if metric in row
        ]
        if values:
            figures[metric] = {**asdict(mean_interval(np.array(values))), "clips": len(values)}
    whole, unmeasured = set_scores(reference, system)
    for metric, value in whole.items():
        names = sorted(system.stages[_FEATURES.get(metric, "hear_panns")])
        figures[metric] = {"value": value, "clips": len(names)}
        if metric in _FEATURES and samples.resamples:
            drawn = samples(name, metric, names)
            spread = interval(value, value + drawn - drawn.mean())
            figures[metric] |= {"low": max(0.0, spread.low), "high": spread.high}
    return figures, unmeasured


def comparisons(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    kept: Mapping[str, Kept],
    samples: Samples,
) -> list[dict[str, Any]]:
    """Every pair of systems on the clips that both have.

    Difference of each metric, and the p of no difference.
    """
    rows: list[dict[str, Any]] = []
    for a, b in combinations(scores, 2):
        for metric in BY_CLIP:
            names = [
                n for n in scores[a] if metric in scores[a][n] and metric in scores[b].get(n, {})
            ]
            if len(names) < 2:
                continue
            x, y = (np.array([scores[s][n][metric] for n in names]) for s in (a, b))
            row = {
                "a": a,
                "b": b,
                "metric": metric,
                "difference": float((x - y).mean()),
                "clips": len(names),
            }
            rows.append(row | {"p": paired_p(x, y)})
        for metric, stage in _FEATURES.items() if samples.resamples else ():
            names = sorted(set(kept[a].stages.get(stage, {})) & set(kept[b].stages.get(stage, {})))
            if len(names) < 2:
                continue
            apart = samples(a, metric, names) - samples(b, metric, names)
            below = float((apart < 0).mean() + 0.5 * (apart == 0).mean())
            p = max(2 * min(below, 1 - below), 1 / samples.resamples)
            row = {
                "a": a,
                "b": b,
                "metric": metric,
                "difference": float(apart.mean()),
                "clips": len(names),
            }
            rows.append(row | {"p": p})
    return rows
