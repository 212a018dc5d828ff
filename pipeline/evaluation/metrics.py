"""The metrics: one table, read by scoring, tables and pages.

A new metric is a function below and a line of METRICS. A function of a metric by clip gives
{clip name: value} of the clips that it can score; one of the whole set gives a number, or raises
MetricError with the reason why there is none.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from model.metrics.metrics import (
    Array,
    Floats,
    MetricError,
    cosine,
    desync,
    frechet_distance,
    frechet_samples,
    inception_score,
    kl_divergence,
)
from model.metrics.onsets import sync_score
from pipeline.evaluation.sets import Item
from warehouse.files import Json

SPLITS = 10  # of an inception score, as in the benchmark; parts of one sound would all score 1
CHUNK = 16  # clips whose offsets are computed at once


@dataclass(frozen=True)
class ClipFeatures:
    """What one network computes of a clip: features [pieces, D], logits [classes] or empty."""

    features: Array
    logits: Array


@dataclass(frozen=True)
class FileFeatures:
    """What the stages computed of one kind of files, by clip name.

    The kinds are the true sounds, the videos, and the sounds of each system.
    """

    stages: Mapping[str, Mapping[str, ClipFeatures]]
    checks: Mapping[str, Json]  # rows of the stage `sound`
    broken: Mapping[str, str]  # why a file cannot be used

    def of(self, stage: str) -> Mapping[str, ClipFeatures]:
        """Features from one stage; none where it has not run."""
        return self.stages.get(stage, {})

    def pieces(self, stage: str) -> Array:
        """Features of all clips from one stage, in order of their names [pieces, D]."""
        rows = [clip.features for _, clip in sorted(self.of(stage).items())]
        return np.concatenate(rows or [np.zeros((0, 1), np.float32)])


@dataclass(frozen=True)
class Inputs:
    """All that a metric of one system is computed from."""

    items: Sequence[Item]
    reference: FileFeatures
    video: FileFeatures
    system: FileFeatures
    # Synchformer's comparison: video and audio tokens [B, T, D] -> [B, 2, 21]; None without it
    offset_logits: Callable[[Array, Array], Array] | None

    def pairs(
        self, other: FileFeatures, other_stage: str, stage: str
    ) -> Iterator[tuple[str, ClipFeatures, ClipFeatures]]:
        """Clips that both have, in the set's order: name, the other's features, the system's."""
        theirs, ours = other.of(other_stage), self.system.of(stage)
        for name in (item.name for item in self.items):
            if name in theirs and name in ours:
                yield name, theirs[name], ours[name]

    def timed(self) -> Iterator[tuple[str, Floats, Floats]]:
        """Clips whose impacts are known: name, times of impacts (s), times of onsets (s)."""
        for item in self.items:
            check = self.system.checks.get(item.name)
            if check and item.truth and "impacts" in item.truth:
                onsets = json.loads(check["sound_onsets"])
                yield item.name, np.array(item.truth["impacts"], float), np.array(onsets, float)


@dataclass(frozen=True)
class Metric:
    """A metric: how it is named, read and computed."""

    key: str
    title: str
    less_is_better: bool
    function: Callable[[Inputs], Any]
    networks: tuple[str, ...] = ()  # whose features it reads, first the one that hears sounds
    per_clip: bool = True
    in_table2: bool = True
    # (inputs, clip names, count) -> values of bootstrap samples, where it is of the whole set
    samples: Callable[[Inputs, Sequence[str], int], Floats] | None = None
    comparable: bool = True  # with the published figures
    signed: bool = False  # a clip's value has a direction, which its mean leaves out

    def clips(self, features: FileFeatures) -> list[str]:
        """Names of the clips that a metric of the whole set is computed from."""
        return sorted(features.of(f"hear_{self.networks[0]}"))


def _kl(network: str, inputs: Inputs) -> dict[str, float]:
    stage = f"hear_{network}"
    return {
        name: float(kl_divergence(a.logits[None], b.logits[None])[0])
        for name, a, b in inputs.pairs(inputs.reference, stage, stage)
    }


def _imagebind(inputs: Inputs) -> dict[str, float]:
    pairs = inputs.pairs(inputs.video, "watch_imagebind", "hear_imagebind")
    return {name: float(cosine(a.features, b.features)[0]) for name, a, b in pairs}


def _desync(inputs: Inputs) -> dict[str, float]:
    """Clips with as many tokens go through the network together."""
    if inputs.offset_logits is None:
        return {}
    alike: dict[tuple[int, int], list[tuple[str, Array, Array]]] = {}
    for name, a, b in inputs.pairs(inputs.video, "watch_synchformer", "hear_synchformer"):
        clip = (name, a.features, b.features)
        alike.setdefault((len(a.features), len(b.features)), []).append(clip)
    offsets: dict[str, float] = {}
    for group in alike.values():
        for start in range(0, len(group), CHUNK):
            names, video, audio = zip(*group[start : start + CHUNK], strict=True)
            logits = inputs.offset_logits(np.stack(video), np.stack(audio))
            offsets |= dict(zip(names, desync(logits).tolist(), strict=True))
    return offsets


def _onset_f1(inputs: Inputs) -> dict[str, float]:
    return {name: sync_score([a], [b]).f1_60ms for name, a, b in inputs.timed()}


def _true_offset(inputs: Inputs) -> dict[str, float]:
    return {name: best_offset(a, b) for name, a, b in inputs.timed() if len(a) and len(b)}


def best_offset(impacts: Floats, onsets: Floats) -> float:
    """The shift (s) in -2..2 by which the onsets are late: where most differences agree."""
    grid = np.linspace(-2, 2, 401)
    apart = (onsets[:, None] - impacts[None]).ravel()
    agreement = np.exp(-((apart[None] - grid[:, None]) ** 2) / (2 * 0.04**2)).sum(1)
    return float(grid[np.argmax(agreement - 1e-6 * np.abs(grid))])


def _frechet(network: str, inputs: Inputs) -> float:
    stage = f"hear_{network}"
    return frechet_distance(inputs.system.pieces(stage), inputs.reference.pieces(stage))


def _frechet_samples(network: str, inputs: Inputs, names: Sequence[str], resamples: int) -> Floats:
    stage = f"hear_{network}"
    features = [inputs.system.of(stage)[name].features for name in names]
    return frechet_samples(features, inputs.reference.pieces(stage), resamples)


def _inception(inputs: Inputs) -> float:
    logits = [clip.logits for clip in inputs.system.of("hear_panns").values()]
    if len(logits) < 2 * SPLITS:
        raise MetricError(
            f"an inception score in {SPLITS} parts needs at least {2 * SPLITS} sounds, "
            f"not {len(logits)}"
        )
    return inception_score(np.stack(logits), SPLITS)


def _fd(key: str, title: str, network: str) -> Metric:
    """A Frechet distance between the features of all true and all generated sounds."""
    return Metric(
        key, title, less_is_better=True, function=partial(_frechet, network), networks=(network,),
        per_clip=False, samples=partial(_frechet_samples, network),
    )  # fmt: skip


_ALL = (
    Metric("kl_panns", "KL-PANNs", True, partial(_kl, "panns"), ("panns",)),
    Metric("kl_passt", "KL-PaSST", True, partial(_kl, "passt"), ("passt",)),
    Metric("ib", "IB", False, _imagebind, ("imagebind",)),
    _fd("fd_vgg", "FD-VGG", "vggish"),
    _fd("fd_panns", "FD-PANNs", "panns"),
    _fd("fd_passt", "FD-PaSST", "passt"),
    Metric("desync", "DeSync", True, _desync, ("synchformer",), comparable=False),
    Metric("is", "IS", False, _inception, ("panns",), per_clip=False),
    Metric("onset_f1", "Onset F1", False, _onset_f1, in_table2=False),
    Metric("true_offset", "True offset, s", True, _true_offset, in_table2=False, signed=True),
)
#: In the order of the paper's Table 2, then those that it does not have.
METRICS = {metric.key: metric for metric in _ALL}
#: Metrics by clip that systems are compared by.
BY_CLIP = tuple(m for m in METRICS.values() if m.per_clip and m.in_table2)
