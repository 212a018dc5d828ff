"""From features to figures: scores of every clip, means with intervals, tests between systems."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import combinations

import numpy as np

from model.metrics.metrics import Floats, MetricError, interval, mean_interval, paired_p
from pipeline.evaluation.metrics import BY_CLIP, METRICS, ClipFeatures, FileFeatures, Inputs
from pipeline.evaluation.sets import System
from pipeline.media.mono import SILENT_DB
from warehouse import Warehouse
from warehouse.files import Json

SHORT_BY = 0.5  # a sound that ends so many seconds before what is compared is short
CLIPPED_SHARE = 0.01  # a sound with more of its samples at full scale is clipped
LOWEST_RATE = 16000  # Hz, of what the networks hear; a lower one says nothing of the highest bands
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}

ClipScores = Mapping[str, Mapping[str, float]]  # clip name -> metric -> value
Figures = Mapping[str, Mapping[str, float]]  # metric -> value, low, high, clips
#: (system, metric, clip names) -> values of bootstrap samples
Samples = Callable[[str, str, tuple[str, ...]], Floats]


def load(
    wh: Warehouse, fingerprints: Mapping[str, str], prefix: str, names: Iterable[str]
) -> FileFeatures:
    """Read what the stages computed of the clips PREFIX + NAME."""
    ids = [prefix + name for name in names]
    stages: dict[str, dict[str, ClipFeatures]] = {}
    checks: dict[str, dict[str, object]] = {}
    broken: dict[str, str] = {}
    for stage, fingerprint in fingerprints.items():
        for row in wh.rows(stage, fingerprint, status=None, clip_ids=ids).to_pylist():
            name = row["clip_id"].removeprefix(prefix)
            if row["status"] != "passed":
                broken.setdefault(name, str(row["message"] or row["reason"] or row["error"]))
            elif stage == "sound":
                checks[name] = row
            else:
                flat, logits = (
                    np.frombuffer(row[f"{stage}_{part}"], "<f4") for part in ("features", "logits")
                )
                features = flat.reshape(row[f"{stage}_pieces"], -1)
                stages.setdefault(stage, {})[name] = ClipFeatures(features, logits)
    return FileFeatures(stages, checks, broken)


def clip_scores(inputs: Inputs) -> dict[str, dict[str, float]]:
    """Scores of each clip that has a usable sound: name -> metric -> value.

    A metric whose other side is unusable (a broken reference for KL, a broken video for IB) is
    missing from that clip.
    """
    names = [item.name for item in inputs.items if item.name in inputs.system.checks]
    scores: dict[str, dict[str, float]] = {name: {} for name in names}
    for metric in METRICS.values():
        if metric.per_clip:
            for name, value in metric.function(inputs).items():
                scores[name][metric.key] = value
    return scores


def summarise(
    system: str, inputs: Inputs, scores: ClipScores, samples: Samples | None
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Figures of a system, and why a metric of the whole set has none.

    A figure has its value, the bounds `low` and `high` of its 95% bootstrap interval over clips,
    and the number of clips behind it.
    """
    figures: dict[str, dict[str, float]] = {}
    unmeasured: dict[str, str] = {}
    for key, metric in METRICS.items():
        if metric.per_clip:
            values = np.array([row[key] for row in scores.values() if key in row])
            if len(values):
                mean = mean_interval(np.abs(values) if metric.signed else values)
                figures[key] = {**asdict(mean), "clips": len(values)}
            continue
        try:
            value = float(metric.function(inputs))
        except MetricError as error:
            unmeasured[key] = str(error)
            continue
        names = metric.clips(inputs.system)
        figures[key] = {"value": value, "clips": len(names)}
        if samples and metric.samples:
            drawn = samples(system, key, tuple(names))
            # Samples drawn with replacement lie farther from the reference than the set itself: the
            # interval is their spread around their own mean, laid around the value.
            spread = interval(value, value + drawn - drawn.mean())
            figures[key] |= {"low": max(0.0, spread.low), "high": spread.high}
    return figures, unmeasured


def comparisons(
    inputs: Mapping[str, Inputs], scores: Mapping[str, ClipScores], samples: Samples | None
) -> list[dict[str, object]]:
    """Every pair of systems on the clips that both have: difference by metric, and its p."""
    rows: list[Json] = []
    for a, b in combinations(scores, 2):
        for key, metric in METRICS.items():
            if metric in BY_CLIP:
                names = [n for n in scores[a] if key in scores[a][n].keys() & scores[b].get(n, {})]
            elif samples and metric.samples:
                theirs = set(metric.clips(inputs[b].system))
                names = [n for n in metric.clips(inputs[a].system) if n in theirs]
            else:
                continue
            if len(names) < 2:
                continue
            if metric.per_clip or samples is None:
                x, y = (np.array([scores[s][n][key] for n in names]) for s in (a, b))
                p = paired_p(x, y)
            else:
                x, y = (samples(s, key, tuple(names)) for s in (a, b))
                p = _bootstrap_p(x - y)
            row = {"a": a, "b": b, "metric": key, "difference": float((x - y).mean())}
            rows.append(row | {"clips": len(names), "p": p})
    return rows


def _bootstrap_p(differences: Floats) -> float:
    """Two-sided p of no difference, from paired bootstrap samples of it; never 0."""
    below = float((differences < 0).mean() + 0.5 * (differences == 0).mean())
    return max(2 * min(below, 1 - below), 1 / len(differences))


def counts(inputs: Inputs, system: System, seconds: float) -> Json:
    """How many videos have a sound, in what formats, and what is wrong with which in `seconds`."""
    checks, broken = inputs.system.checks, inputs.system.broken
    problems = {name: ["missing: there is no file of this name"] for name in system.missing}
    problems |= {name: [f"broken: {why.split(': ', 1)[-1]}"] for name, why in broken.items()}
    kinds = Counter[str]()
    for name, check in checks.items():
        for kind, text in _flaws(check, seconds):
            problems.setdefault(name, []).append(f"{text}, scored as it is")
            kinds[kind] += 1
    formats = Counter(
        f"{check['sound_rate'] / 1000:g} kHz {_layout(check, ' channels')}"
        for check in checks.values()
    )
    return {
        "videos": len(inputs.items),
        "scored": len(checks),
        "missing": len(system.missing),
        "broken": len(broken),
        **{kind: kinds[kind] for kind in ("silent", "short", "clipped")},
        "unknown_files": len(system.unknown),
        "problems": {name: "; ".join(texts) for name, texts in sorted(problems.items())},
        "unknown": list(system.unknown)[:50],
        "formats": dict(formats.most_common()),
    }


def _flaws(check: Json, seconds: float) -> Iterator[tuple[str, str]]:
    """(kind, text) of what may lower the scores of a sound."""
    if check["sound_peak_db"] < SILENT_DB:
        yield "silent", "silent"
    if check["sound_seconds"] < seconds - SHORT_BY:
        yield "short", f"short ({check['sound_seconds']:.2f} s)"
    if check["sound_clipped_share"] > CLIPPED_SHARE:
        share = f"{check['sound_clipped_share']:.0%}"
        yield "clipped", f"clipped ({share} of its samples at full scale)"
    if check["sound_rate"] < LOWEST_RATE:
        rate = f"{check['sound_rate'] / 1000:g} kHz"
        yield "dull", f"sampled at {rate} (nothing above half of that is in it)"
    if check["sound_channels"] > 2:
        yield "surround", f"{_layout(check)} (heard as the mean of all)"


def _layout(check: Json, unit: str = "-channel") -> str:
    channels = check["sound_channels"]
    return _LAYOUTS.get(channels, f"{channels}{unit}")
