"""The mathematics of the evaluation metrics, apart from any network: arrays in, numbers out.

All in float64. Definitions follow the benchmark that the paper used (hkchengrex/av-benchmark,
av_bench/metrics; paper section 4.2); what differs is noted where it differs. A value that cannot be
computed is an error, never a placeholder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating]

OFFSETS: Floats = np.linspace(-2.0, 2.0, 21)  # seconds; the classes of a sync network, 0.2 s apart
RESAMPLES = 1000


class MetricError(ValueError):
    """A metric cannot be computed from these values; the message says why."""


def _finite(name: str, values: Array, ndim: int) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != ndim:
        raise MetricError(f"{name} must have {ndim} dimensions, not shape {array.shape}")
    if not np.isfinite(array).all():
        raise MetricError(f"{name} hold values that are not finite numbers")
    return array


def _finite_pair(name: str, a: Array, b: Array) -> tuple[Floats, Floats]:
    """Two matrices [clips, D] of the same shape."""
    x, y = _finite(name, a, 2), _finite(name, b, 2)
    if x.shape != y.shape:
        raise MetricError(f"{name} have shapes {x.shape} and {y.shape}")
    return x, y


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_divergence(reference: Array, generated: Array) -> Floats:
    """KL(reference || generated) of each clip, from logits [clips, classes] -> [clips].

    Softmax of both, summed over classes. Taken in logarithms, so that no epsilon is needed.
    """
    p, q = _finite_pair("logits", reference, generated)
    log_p, log_q = log_softmax(p), log_softmax(q)
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)


def frechet_distance(a: Array, b: Array) -> float:
    """Frechet distance of the Gaussians fitted to features [n, D] and [m, D].

    |mean - mean|^2 + tr(A) + tr(B) - 2 tr((A B)^1/2) with covariances over n - 1. The last trace is
    the nuclear norm of X Y^T / sqrt((n - 1)(m - 1)) for centred features X and Y, which needs no
    matrix square root: 527 clips of 2048 dimensions take less than a second. Raises MetricError for
    fewer than two features on a side, and for a result that is no number (the benchmark gives -1).
    """
    x, y = _finite("features", a, 2), _finite("features", b, 2)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise MetricError(
            "a Frechet distance needs two sets of at least 2 features each, "
            f"not {x.shape} and {y.shape}"
        )
    apart = x.mean(0) - y.mean(0)
    x, y = (_shortened(f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y))
    try:
        shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    except np.linalg.LinAlgError as error:
        raise MetricError(f"the Frechet distance did not converge: {error}") from None
    spread = (x**2).sum() + (y**2).sum()
    distance = float(apart @ apart + spread - 2 * shared)
    if not np.isfinite(distance) or distance < -1e-6 * max(1.0, spread):
        raise MetricError(
            f"the Frechet distance came out as {distance:g}: the features are too large"
        )
    return max(distance, 0.0)


def _shortened(centred: Floats) -> Floats:
    """A matrix of at most D rows with the same X^T X: nuclear norms of products stay the same."""
    return np.asarray(np.linalg.qr(centred, "r")) if len(centred) > centred.shape[1] else centred


def inception_score(logits: Array, splits: int = 10) -> float:
    """Inception score of logits [clips, classes].

    exp of the mean KL of each clip's classes from the mean of its split. Clips are shuffled (seed
    as in the benchmark) and divided into `splits`, whose scores are averaged; with fewer clips than
    splits, into as many splits as there are clips.
    """
    log_p = log_softmax(_finite("logits", logits, 2))
    if len(log_p) == 0:
        raise MetricError("an inception score needs at least one clip")
    shuffled = log_p[np.random.RandomState(2020).permutation(len(log_p))]
    splits = min(splits, len(log_p))
    bounds = [i * len(log_p) // splits for i in range(splits + 1)]
    scores: list[float] = []
    for start, end in pairwise(bounds):
        part = shuffled[start:end]
        p = np.exp(part)
        with np.errstate(divide="ignore"):
            log_mean = np.log(p.mean(0))
        kl = np.where(p > 0, p * (part - np.where(np.isfinite(log_mean), log_mean, 0)), 0).sum(1)
        scores.append(float(np.exp(kl.mean())))
    return float(np.mean(scores))


def cosine(a: Array, b: Array) -> Floats:
    """Cosine of each pair of embeddings [clips, D] -> [clips], -1..1."""
    x, y = _finite_pair("embeddings", a, b)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if (lengths == 0).any():
        raise MetricError("an embedding of length 0 has no direction")
    return np.clip((x * y).sum(1) / lengths, -1.0, 1.0)


def offsets_of(logits: Array) -> Floats:
    """Most likely offset (s) of logits [..., 21] over OFFSETS."""
    array = np.asarray(logits, np.float64)
    if array.shape[-1:] != OFFSETS.shape or not np.isfinite(array).all():
        raise MetricError(
            f"sync logits must be finite and of {len(OFFSETS)} classes, not shape {array.shape}"
        )
    return OFFSETS[array.argmax(-1)]


def desync(logits: Array) -> Floats:
    """DeSync (s) of clips: mean absolute offset over windows, from logits [clips, windows, 21]."""
    if np.ndim(logits) != 3:
        raise MetricError(
            f"sync logits must be [clips, windows, {len(OFFSETS)}], not shape {np.shape(logits)}"
        )
    return np.abs(offsets_of(logits)).mean(1)


def area_under_roc(positive: Sequence[float] | Array, negative: Sequence[float] | Array) -> float:
    """Share of pairs in which the positive has the higher score, ties counted half."""
    from scipy.stats import mannwhitneyu  # here, because scipy takes a second to import

    pairs = len(positive) * len(negative)
    if pairs == 0:
        raise MetricError("an area under the ROC curve needs scores of both kinds")
    return float(mannwhitneyu(positive, negative, method="asymptotic").statistic) / pairs


@dataclass(frozen=True)
class Interval:
    """A figure with the 95% interval of its bootstrap over clips."""

    value: float
    low: float
    high: float


def resampled(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    clips: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """`statistic` of bootstrap samples of clips, each given as indices [clips] -> [resamples].

    The same clips, resamples and seed give the same samples: those of two systems are paired.
    """
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(clips, size=clips)) for _ in range(resamples)])


def frechet_samples(
    clips: Sequence[Array], reference: Array, resamples: int, seed: int = 0
) -> Floats:
    """Frechet distances of bootstrap samples of clips to a reference -> [resamples].

    Of clips' features [pieces, D] and the reference's [m, D]. What `frechet_distance` gives for
    every sample, with the products that all samples share computed once.
    """
    x = _finite("features", np.concatenate([np.atleast_2d(clip) for clip in clips]), 2)
    y = _finite("features", reference, 2)
    owner = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
    x = x - y.mean(0)
    fixed = _shortened(y - y.mean(0)) / np.sqrt(len(y) - 1)  # [r, D]
    products, squares, spread = x @ fixed.T, (x**2).sum(1), (fixed**2).sum()

    def once(drawn: npt.NDArray[np.int64]) -> float:
        times = np.bincount(drawn, minlength=len(clips))[owner]
        count = times.sum()
        apart, middle = times @ x / count, times @ products / count
        used = np.flatnonzero(times)
        weighted = np.sqrt(times[used] / (count - 1))[:, None] * (products[used] - middle)
        shared = np.linalg.svd(weighted, compute_uv=False).sum()
        own = (times @ squares - count * (apart @ apart)) / (count - 1)
        return max(float(apart @ apart + own + spread - 2 * shared), 0.0)

    return resampled(once, len(clips), resamples, seed)


def interval(value: float, values: Array) -> Interval:
    """A figure with the 2.5% and 97.5% percentiles of its bootstrap values."""
    low, high = np.percentile(np.asarray(values, np.float64), (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean_interval(scores: Array, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of one score a clip, with its bootstrap interval."""
    values = _finite("scores", scores, 1)
    if len(values) == 0:
        raise MetricError("a mean needs at least one clip")
    means = resampled(lambda rows: float(values[rows].mean()), len(values), resamples, seed)
    return interval(float(values.mean()), means)


def paired_p(a: Array, b: Array, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p of equal means of two systems' scores of the same clips.

    From exchanges of the two within clips: all that there are, where they are no more than
    `resamples`; else so many random ones and the given one, so that p is never 0.
    """
    x, y = _finite("scores", a, 1), _finite("scores", b, 1)
    if x.shape != y.shape or len(x) < 2:
        raise MetricError(
            f"a paired test needs scores of the same clips, at least 2, not {len(x)} and {len(y)}"
        )
    apart, exchanges = x - y, 2 ** min(len(x), 62)
    if exchanges <= resamples:
        swapped = (np.arange(exchanges)[:, None] >> np.arange(len(x))) & 1
    else:
        swapped = np.random.default_rng(seed).integers(2, size=(resamples, len(x)), dtype=np.int8)
        swapped[0] = 0
    means = np.abs((1 - 2 * swapped) @ apart)
    return float((means >= np.abs(apart.sum()) * (1 - 1e-9)).mean())
