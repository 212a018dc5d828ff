"""Batches of clips of like lengths: which clips they hold, and when they come."""

from __future__ import annotations

import numpy as np
import pytest

from warehouse.datasets.epoch import Epoch

GROUP = 64
RNG = np.random.default_rng(0)
#: Latents of 10,000 clips: six in ten of 10 s, the rest anything from 2 s on.
LENGTHS = np.where(RNG.random(10_000) < 0.6, 216, RNG.integers(43, 216, 10_000))


def pieces(count: int) -> list[np.ndarray]:
    return np.split(np.arange(count), range(GROUP, count, GROUP))


def batches(lengths: np.ndarray, **options: object) -> list[np.ndarray]:
    epoch = Epoch(12, **options)  # type: ignore[arg-type]
    return epoch.batches(pieces(len(lengths)), 1000, lengths if epoch.by else None)


def test_full_batches_hold_neighbouring_lengths_and_every_clip_comes_once() -> None:
    found = batches(LENGTHS, by="latents")
    rows = np.concatenate(found)
    assert {len(batch) for batch in found} == {12}
    assert len(rows) == len(set(rows.tolist())) == 10_000 // 12 * 12
    spread = np.array([np.ptp(LENGTHS[batch]) for batch in found])
    assert spread.max() <= 12
    cut = sum((LENGTHS[batch] - LENGTHS[batch].min()).sum() for batch in found)
    assert cut / LENGTHS.sum() < 0.003


def test_batches_that_may_be_short_hold_equal_lengths_and_every_clip_of_those_asked_for() -> None:
    found = batches(LENGTHS, by="latents", drop_last=False)
    assert all(np.ptp(LENGTHS[batch]) == 0 for batch in found)
    assert max(map(len, found)) == 12
    assert sorted(np.concatenate(found).tolist()) == list(range(10_000))
    some = np.concatenate(batches(LENGTHS, by="latents", drop_last=False, most=100))
    plain = np.concatenate(batches(LENGTHS, drop_last=False, most=100))
    assert sorted(some.tolist()) == sorted(plain.tolist())
    assert len(set(some.tolist())) == 100


def test_no_length_comes_early_or_late_in_an_epoch() -> None:
    """The mean place of batches of short, of middling and of the longest clips is the middle."""
    places: dict[str, list[float]] = {"short": [], "middling": [], "longest": []}
    for number in range(20):
        found = batches(LENGTHS[:4000], by="latents", number=number)
        for place, batch in enumerate(found):
            shortest = LENGTHS[batch].min()
            kind = "short" if shortest < 120 else "middling" if shortest < 216 else "longest"
            places[kind].append((place + 0.5) / len(found))
    for kind, found in places.items():
        assert np.mean(found) == pytest.approx(0.5, abs=0.03), kind
        assert np.std(found) == pytest.approx(1 / np.sqrt(12), abs=0.03), kind


def test_clips_of_one_length_come_as_if_no_length_had_been_asked_for() -> None:
    one = np.full(250, 100)
    for drop_last in (True, False):
        alike = batches(one, by="latents", drop_last=drop_last, seed=3)
        plain = batches(one, drop_last=drop_last, seed=3)
        assert [batch.tolist() for batch in alike] == [batch.tolist() for batch in plain]


def test_who_is_left_out_differs_from_epoch_to_epoch() -> None:
    """Eight clips in batches of twelve are left out of each of 40 epochs of 128."""
    lengths = LENGTHS[:128]
    taken = [set(np.concatenate(batches(lengths, by="latents", number=n))) for n in range(40)]
    assert {len(clips) for clips in taken} == {120}
    assert set.intersection(*taken) != set(range(128))
    assert set.union(*taken) == set(range(128))
