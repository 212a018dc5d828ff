"""Early stopping: which weights are kept, and when it is time to stop."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from model.presets.settings import TrainSettings
from model.training.early_stopping import EarlyStopping


def seen(patience: int | None, *losses: float) -> EarlyStopping:
    """After validations every ten steps, up to the one that stops; weights are the step's number.

    The tensor that they are read from changes on the way, as a trained one does.
    """
    early, weights = EarlyStopping(patience), torch.zeros(1)
    for step, loss in enumerate(losses):
        weights.fill_(10 * step)
        early.add(10 * step, loss, [weights])
        if early.stop:
            break
    return early


@pytest.mark.parametrize(
    ("patience", "losses", "best", "last", "stop"),
    [
        (2, (5.0, 4.0, 3.0, 3.5, 3.2, 1.0), 20, 40, True),
        (3, (5.0, 4.0, 3.0, 3.5, 3.2, 1.0), 50, 50, False),
        (1, (5.0, 4.0, 4.0), 10, 20, True),  # as good is not better
        (2, (5.0, 6.0, 4.0, 6.0, 4.5), 20, 40, True),  # a better one begins the count anew
        (2, (3.0, nan, inf), 0, 20, True),
        (1, (3.0,), 0, 0, False),
    ],
)
def test_it_stops_after_so_many_validations_without_a_better_one(
    patience: int, losses: tuple[float, ...], best: int, last: int, stop: bool
) -> None:
    early = seen(patience, *losses)
    assert (early.best, max(early.losses), early.stop) == (best, last, stop)
    assert early.weights is not None
    assert early.weights[0].item() == best


def test_without_patience_nothing_is_kept() -> None:
    early = seen(None, 1.0, 2.0, 3.0)
    assert (early.best, early.weights, early.stop) == (None, None, False)


def test_it_goes_on_where_it_was_and_counts_no_validation_twice() -> None:
    first, second = seen(2, 3.0, 4.0), EarlyStopping(2)
    second.load_state_dict(first.state_dict())
    second.add(10, 4.0, [torch.ones(1)])  # measured again, because a stop came before it was noted
    assert not second.stop
    second.add(20, 5.0, [torch.ones(1)])
    assert second.stop
    assert second.weights is not None
    assert second.weights[0].item() == 0


def test_patience_makes_another_training_and_none_leaves_the_ids_of_before() -> None:
    plain = TrainSettings(steps=1, batch_size=1, learning_rate=1.0)
    patient = plain.model_copy(update={"patience": 2})
    assert "patience" not in plain.recipe()
    assert patient.recipe()["patience"] == 2
    often = {"validate_every": 7, "validation_clips": 3}
    assert plain.model_copy(update=often).recipe() == plain.recipe()
    # how often and on what it is measured decides which step is best
    for name, value in often.items():
        assert patient.model_copy(update={name: value}).recipe() != patient.recipe()
