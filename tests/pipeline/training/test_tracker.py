"""The curves of a training go where its settings say, beside TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from model.presets.preset import Preset
from pipeline.training.train import train
from tests.pipeline.small import Curated, with_training
from warehouse import FoleyError


class Lines(GeneralTracker):
    """A tracker of one's own, as Accelerate's documentation has it: a line of JSON a call."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, project: str, logging_dir: str) -> None:
        super().__init__()
        self.file = Path(logging_dir) / f"{project}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.file

    def start(self) -> None:
        self._say(["started"])

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._say(["about", values])

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._say([step, values])

    def finish(self) -> None:
        self._say(["finished"])

    def _say(self, line: list[Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def test_a_tracker_of_ones_own_gets_every_figure_and_changes_no_training(
    curated: Curated, preset: Preset
) -> None:
    plain = with_training(preset, steps=3, validate_every=3)
    own = with_training(plain, tracker="tests.pipeline.training.test_tracker:Lines")
    losses: list[float] = []
    done = train(curated.data(own), lambda progress: losses.append(progress.loss))
    text = (done.path.parent / "foley-control.jsonl").read_text()
    started, (_, about), *told, finished = map(json.loads, text.splitlines())
    assert (started, finished) == (["started"], ["finished"])
    assert about == {"training": done.id, "first_step": 1}
    figures = [(step, values) for step, values in told if "loss" in values]
    assert [(step, values["loss"]) for step, values in figures] == list(enumerate(losses, 1))
    assert all(values["grad_norm"] > 0 for _, values in figures)
    [[step, true, null, other]] = done.record["validation"]
    measured = {"validation/true": true, "validation/null": null, "validation/other": other}
    assert [step, measured] in told
    assert not train(curated.data(plain), lambda _: None).trained  # it is the same training


@pytest.mark.parametrize(
    ("name", "said"),
    [("comet_ml", "choose one of .*wandb.*install its library"), ("nowhere:Class", "nowhere")],
)
def test_a_tracker_that_is_not_here_is_refused_before_any_model_is_loaded(
    curated: Curated, preset: Preset, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("pipeline.training.train.Backbone.from_pretrained")
    with pytest.raises(FoleyError, match=said):
        train(curated.data(with_training(preset, tracker=name)), lambda _: None)
