"""What parameters take, and what they refuse before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.parameters import (
    BatchParameters,
    CurateParameters,
    ModelParameters,
    SelectParameters,
    TrainParameters,
)
from warehouse import FoleyError


@pytest.mark.parametrize("given", ["a,b", ["a", "b"], ("a,b",), ["a,b"]])
def test_names_come_as_a_list_or_with_commas_between_them(tmp_path: Path, given: object) -> None:
    """A text alone is what `prefect deployment run --param sources=a,b` gives."""
    assert CurateParameters.model_validate({"home": tmp_path, "sources": given}).sources == (
        "a",
        "b",
    )


def test_of_two_values_for_a_setting_the_last_counts(tmp_path: Path) -> None:
    two = ("train.steps=3", "train.batch_size=2", "train.steps = 4")
    train = ModelParameters(home=tmp_path, preset="toy", settings=two).load_preset().train
    assert (train.steps, train.batch_size) == (4, 2)


@pytest.mark.parametrize(
    ("parameters", "given", "said"),
    [
        (SelectParameters, {"policy": "nothing"}, "no policy 'nothing'"),
        (TrainParameters, {"hosts": 2}, "belong together"),
        (TrainParameters, {"rendezvous": "host:29500"}, "belong together"),
        (TrainParameters, {"settings": ("train.preference=0.1",)}, "from a trained bridge"),
        (TrainParameters, {"optimiser": True}, "of the checkpoint to start from"),
        (BatchParameters, {"cluster": "tcp://a:1"}, "choose runner dask or ray"),
        (BatchParameters, {"gpus": 2}, "choose runner process"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, parameters: type[ModelParameters], given: dict[str, object], said: str
) -> None:
    with pytest.raises((ValueError, FoleyError), match=said):
        parameters.model_validate({"home": tmp_path, "preset": "toy", **given})
