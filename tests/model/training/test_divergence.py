"""What is a divergence, and what is a bad batch, on losses written down here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from model.training.divergence import FEWEST, PATIENCE, DivergedError, LossWatch


def watched(losses: Sequence[float], most: float = 4.0) -> LossWatch:
    watch = LossWatch(most)
    for step, loss in enumerate(losses, 1):
        watch.check(step, loss, 1.0)
    return watch


def test_losses_that_stay_high_for_long_enough_are_a_divergence_and_one_less_is_none() -> None:
    usual = [1.0] * 10
    watch = watched(usual + [4.1] * (PATIENCE - 1))
    with pytest.raises(DivergedError, match=r"rose to 4.1, it had been 1") as error:
        watch.check(10 + PATIENCE, 4.1, 1.0)
    assert error.value.good == 9  # step 10's loss was still that of the weights after step 9
    watched(usual + ([4.1] * (PATIENCE - 1) + [1.0]) * 3)
    watched(usual + [4.0] * PATIENCE)  # four times the usual one is not above it


def test_the_usual_loss_is_the_lowest_median_so_a_slow_rise_is_seen() -> None:
    slow = [1.02**step for step in range(200)]  # fourfold after 70 steps, medians rise with it
    with pytest.raises(DivergedError) as error:
        watched(slow)
    first_high = next(i for i, loss in enumerate(slow, 1) if loss > 4 * slow[2])
    assert error.value.good == first_high - 2


def test_the_usual_loss_is_that_of_most_of_the_first_steps() -> None:
    few = FEWEST // 2
    watched([1e-9] * few + [1.0] * (3 * PATIENCE))
    with pytest.raises(DivergedError):
        watched([1e-9] * (few + 1) + [1.0] * PATIENCE)


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_no_number_stops_at_once(loss: float, norm: float) -> None:
    watch = watched([1.0] * 10)
    with pytest.raises(DivergedError, match="step 11: the loss is") as error:
        watch.check(11, loss, norm)
    assert error.value.good == 9


def test_one_that_goes_on_has_seen_what_was_seen() -> None:
    resumed = LossWatch(4.0)
    resumed.load_state_dict(watched([1.0] * 10 + [5.0] * (PATIENCE - 1)).state_dict())
    with pytest.raises(DivergedError):
        resumed.check(10 + PATIENCE, 5.0, 1.0)
