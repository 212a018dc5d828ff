"""Metrics against closed forms, the benchmark's own formulas, and properties that must hold."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics.metrics import (
    OFFSETS,
    MetricError,
    area_under_roc,
    cosine,
    desync,
    frechet_distance,
    frechet_samples,
    inception_score,
    interval,
    kl_divergence,
    mean_interval,
    paired_p,
    resampled,
)

SEEDS = st.integers(0, 2**32 - 1)


def whitened(n: int, dims: int, seed: int) -> np.ndarray:
    """Features whose sample mean is exactly 0 and whose sample covariance is the identity."""
    x = np.random.default_rng(seed).standard_normal((n, dims))
    x -= x.mean(0)
    return np.linalg.qr(x)[0] * np.sqrt(n - 1)


def benchmark_fd(x: np.ndarray, y: np.ndarray) -> float:
    """The benchmark's formula.

    Trace of the matrix square root of the product of the covariances.
    """
    mu, nu = x.mean(0), y.mean(0)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(a @ b)))
    return float((mu - nu) @ (mu - nu) + np.trace(a) + np.trace(b) - 2 * np.trace(root))


@pytest.mark.parametrize("n", [6, 40, 400])
def test_fd_of_moved_and_scaled_gaussians_is_the_closed_form(n: int) -> None:
    dims = 4
    x = whitened(n, dims, 0)
    moved = whitened(n + 3, dims, 1)
    moved[:, 0] += 3
    assert frechet_distance(x, moved) == pytest.approx(9, rel=1e-9)
    x, y = whitened(40, 8, 2), 2 * whitened(50, 8, 3)  # I and 4 I: 8 (1 + 4 - 2 * 2)
    assert frechet_distance(x, y) == pytest.approx(8, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "dims"), [(300, 200, 16), (100, 120, 64), (1500, 800, 128)])
def test_fd_equals_the_benchmarks_formula(n: int, m: int, dims: int) -> None:
    rng = np.random.default_rng(n)
    mix = rng.standard_normal((dims, dims)) / np.sqrt(dims)
    x, y = rng.standard_normal((n, dims)) @ mix, rng.standard_normal((m, dims)) * 1.5 + 0.2
    assert frechet_distance(x, y) == pytest.approx(benchmark_fd(x, y), rel=1e-6)


def test_fd_of_the_papers_size_needs_no_matrix_square_root() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((527, 2048)) @ np.diag(np.linspace(0.1, 2, 2048))
    y = np.maximum(rng.standard_normal((500, 2048)), 0)
    found = frechet_distance(x, y)
    # tr((A B)^1/2) from the eigenvalues of the small n x n problem, another way to the same number
    xc, yc = (x - x.mean(0)) / np.sqrt(526), (y - y.mean(0)) / np.sqrt(499)
    k = xc @ yc.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(k @ k.T), 0)).sum()
    apart = ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert found == pytest.approx(apart + (xc**2).sum() + (yc**2).sum() - 2 * shared, rel=1e-6)


@settings(max_examples=30)
@given(seed=SEEDS, n=st.integers(2, 30), m=st.integers(2, 30), dims=st.integers(1, 12))
def test_fd_is_symmetric_blind_to_order_and_zero_for_itself(
    seed: int, n: int, m: int, dims: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, dims)), rng.standard_normal((m, dims)) * 2 + 1
    found = frechet_distance(x, y)
    assert found >= 0
    assert frechet_distance(y, x) == pytest.approx(found, rel=1e-8, abs=1e-9)
    assert frechet_distance(x[rng.permutation(n)], y[rng.permutation(m)]) == pytest.approx(
        found, rel=1e-8, abs=1e-9
    )
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    rotation = np.linalg.qr(rng.standard_normal((dims, dims)))[0]
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(found, rel=1e-7, abs=1e-8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers too large to square are the point
@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "at least 2"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "not finite"),
        (np.zeros(5), np.zeros((5, 3)), "dimensions"),
        (
            np.arange(15.0).reshape(5, 3) * 1e200,
            np.ones((5, 3)),
            "Frechet distance (came out|did not converge)",
        ),
    ],
)
def test_fd_says_why_it_cannot_be_computed(a: np.ndarray, b: np.ndarray, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        frechet_distance(a, b)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, clips=st.integers(2, 12), m=st.integers(2, 30), dims=st.integers(1, 12))
def test_bootstrap_samples_are_distances_of_the_clips_drawn(
    seed: int, clips: int, m: int, dims: int
) -> None:
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((int(rng.integers(1, 4)), dims)) + 2 for _ in range(clips)]
    reference = rng.standard_normal((m, dims))

    def one_by_one(rows: np.ndarray) -> float:
        return frechet_distance(np.concatenate([features[i] for i in rows]), reference)

    expected = resampled(one_by_one, clips, 5, seed)
    np.testing.assert_allclose(
        frechet_samples(features, reference, 5, seed), expected, rtol=1e-8, atol=1e-8
    )


def test_kl_of_known_distributions() -> None:
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert kl_divergence(np.log(p), np.log(q))[0] == pytest.approx(expected)
    # no epsilon: a class that the generated sound all but excludes costs what it costs
    assert kl_divergence(np.array([[0.0, 0.0]]), np.array([[0.0, -2000.0]]))[0] == pytest.approx(
        1000 - np.log(2)
    )


@settings(max_examples=30)
@given(seed=SEEDS, clips=st.integers(1, 8), classes=st.integers(2, 20))
def test_kl_equals_the_benchmarks_and_is_a_divergence(seed: int, clips: int, classes: int) -> None:
    import torch
    import torch.nn.functional as F

    rng = np.random.default_rng(seed)
    p, q = rng.standard_normal((2, clips, classes)) * 3
    found = kl_divergence(p, q)
    theirs = F.kl_div(
        torch.tensor(q).softmax(1).log(), torch.tensor(p).softmax(1), reduction="none"
    ).sum(1)
    np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-6, atol=1e-12)
    assert (found >= 0).all()
    np.testing.assert_allclose(kl_divergence(p, p), 0, atol=1e-12)
    np.testing.assert_allclose(
        kl_divergence(p + 7, q - 3), found, rtol=1e-9, atol=1e-12
    )  # softmax: shifts say nothing
    order = rng.permutation(clips)
    np.testing.assert_allclose(kl_divergence(p[order], q[order]), found[order])
    np.testing.assert_allclose(kl_divergence(p[:1], q[:1]), found[:1])  # no clip knows of its batch
    doubled = kl_divergence(np.concatenate([p, p]), np.concatenate([q, q]))
    assert doubled.mean() == pytest.approx(found.mean(), abs=1e-12)


def test_is_of_known_sets() -> None:
    assert inception_score(np.eye(50) * 1000, splits=1) == pytest.approx(50)
    assert inception_score(np.zeros((30, 5)), splits=10) == pytest.approx(1)
    assert inception_score(np.zeros((3, 5)), splits=10) == pytest.approx(
        1
    )  # fewer clips than splits


@settings(max_examples=20)
@given(seed=SEEDS, clips=st.integers(10, 60))
def test_is_equals_the_benchmarks_and_is_bounded(seed: int, clips: int) -> None:
    logits = np.random.default_rng(seed).standard_normal((clips, 7)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = p[np.random.RandomState(2020).permutation(clips)]
    theirs = []
    for i in range(10):
        part = p[i * clips // 10 : (i + 1) * clips // 10]
        theirs.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert inception_score(logits) == pytest.approx(np.mean(theirs), rel=1e-6)
    assert 1 - 1e-9 <= inception_score(logits) <= 7
    order = np.random.default_rng(seed).permutation(clips)
    assert inception_score(logits[order], splits=1) == pytest.approx(
        inception_score(logits, splits=1)
    )


@settings(max_examples=20)
@given(seed=SEEDS, dims=st.integers(2, 64))
def test_cosine_is_symmetric_and_blind_to_length(seed: int, dims: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 5, dims))
    np.testing.assert_allclose(cosine(a, b), cosine(3 * b, 0.5 * a), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cosine(a, -a), -1)
    for row in range(5):
        assert cosine(a, b)[row] == pytest.approx(
            a[row] @ b[row] / np.sqrt((a[row] @ a[row]) * (b[row] @ b[row]))
        )


def test_an_embedding_of_no_direction_is_said() -> None:
    with pytest.raises(MetricError, match="length 0"):
        cosine(np.zeros((1, 4)), np.ones((1, 4)))


def test_desync_is_the_mean_distance_of_the_likeliest_offsets() -> None:
    logits = np.zeros((2, 2, 21))
    logits[0, 0, 0] = logits[0, 1, 20] = 1  # -2 s and 2 s
    logits[1, 0, 10] = logits[1, 1, 12] = 1  # 0 s and .4 s
    np.testing.assert_allclose(desync(logits), [2.0, 0.2], atol=1e-12)
    assert len(OFFSETS) == 21
    assert OFFSETS[11] - OFFSETS[10] == pytest.approx(0.2)
    with pytest.raises(MetricError, match="21 classes"):
        desync(np.zeros((2, 2, 20)))


def test_area_under_roc_of_separated_equal_and_half_mixed_scores() -> None:
    assert area_under_roc([2, 3], [0, 1]) == 1
    assert area_under_roc([1, 1], [1, 1]) == 0.5
    assert area_under_roc([0, 2], [1, 1]) == 0.5


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [
        i.low <= 1 <= i.high
        for i in (mean_interval(rng.exponential(size=60), 300, s) for s in range(200))
    ]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_few_clips_are_tested_by_every_exchange() -> None:
    a = np.array([3.0, 1.0, 2.0])
    assert paired_p(a, np.zeros(3)) == 2 / 8  # none or all of three exchanged
    assert paired_p(a, a) == 1
    assert (
        paired_p(np.array([3.0, 1.0, -2.0]), np.zeros(3)) == 6 / 8
    )  # two signs give less than 2, of 0


def test_a_paired_test_sees_what_unpaired_means_hide_and_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(1)
    hard = rng.exponential(size=100) * 5  # clips differ far more than systems
    a, b = hard + rng.standard_normal(100) * 0.1, hard + 0.1 + rng.standard_normal(100) * 0.1
    assert paired_p(a, b) < 0.001
    assert paired_p(a, b) == paired_p(b, a) == paired_p(a, b)  # the same every time
    null = [paired_p(*(hard + rng.standard_normal((2, 100))), resamples=199) for _ in range(100)]
    assert np.mean(np.array(null) < 0.05) <= 0.12


def test_many_clips_are_tested_by_random_exchanges_and_none_at_all() -> None:
    apart = np.arange(1.0, 101.0)  # no random exchange of 100 clips leaves all signs alike
    assert paired_p(apart, np.zeros(100), resamples=99) == 1 / 99
    assert paired_p(np.zeros(100), apart, resamples=99) == 1 / 99


def test_bootstrap_samples_draw_clips_with_replacement_and_leave_out_a_third() -> None:
    left = resampled(lambda rows: 1 - len(set(rows.tolist())) / 200, 200, 50)
    assert left.mean() == pytest.approx((1 - 1 / 200) ** 200, abs=0.01)
    first = resampled(lambda rows: float(rows[0]), 200, 50, seed=1)
    assert np.array_equal(first, resampled(lambda rows: float(rows[0]), 200, 50, seed=1))
    assert not np.array_equal(first, resampled(lambda rows: float(rows[0]), 200, 50, seed=2))


def test_an_interval_leaves_out_a_fortieth_on_either_side() -> None:
    found = interval(7.0, np.arange(401.0))
    assert (found.value, found.low, found.high) == (7.0, 10.0, 390.0)
    normal = mean_interval(np.tile([0.0, 2.0], 200), 2000)  # deviation 1, 400 clips
    assert normal.value == 1.0
    assert normal.high - normal.low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_one_clip_is_too_few_for_a_paired_test() -> None:
    with pytest.raises(MetricError, match="at least 2"):
        paired_p(np.ones(1), np.zeros(1))
    assert paired_p(np.ones(2), np.zeros(2)) == 2 / 4


def test_samples_of_two_metrics_are_of_the_same_clips_where_no_seed_is_given() -> None:
    clips = list(np.random.default_rng(3).standard_normal((6, 2, 3)))
    reference = np.concatenate(clips) + 1
    want = resampled(
        lambda rows: frechet_distance(np.concatenate([clips[i] for i in rows]), reference), 6, 5
    )
    np.testing.assert_allclose(frechet_samples(clips, reference, 5), want, rtol=1e-8)
