"""From a bridge to the next, and from a state that a disk has damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.presets.preset import Preset
from model.training.trainer import Progress
from model.weights.load import WeightsError
from pipeline.training.checkpoints import choose_checkpoint
from pipeline.training.parent import Parent
from pipeline.training.train import train
from tests.pipeline.small import Curated, with_training
from warehouse import FoleyError, trace


def test_a_training_from_a_checkpoint_begins_with_its_weights_and_names_it(
    curated: Curated, preset: Preset
) -> None:
    first = train(curated.data(with_training(preset, keep_state=True)), lambda _: None)
    # with a rate of next to nothing, what is written is what it began with
    still = with_training(preset, steps=1, learning_rate=1e-12, weight_decay=0.0)
    parent = choose_checkpoint(curated.wh, preset, first.id)
    [scale] = curated.wh.home.glob("features/*/_video_scale.json")
    measured = json.loads(scale.read_text())
    scale.write_text(json.dumps(measured | {"mean": [9.0] * len(measured["mean"])}))
    for optimiser in (False, True):
        child = train(curated.data(still), lambda _: None, parent=Parent(parent, optimiser))
        assert (child.record["parent"], child.record["parent_optimiser"]) == (first.id, optimiser)
        before, after = load_file(first.path), load_file(child.path)
        assert before.keys() == after.keys()
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, atol=1e-7, rtol=1e-6)
    other = replace(parent, record=parent.record | {"sha256": "of another file"})
    assert Parent(other).identity != Parent(parent).identity
    elsewhere = replace(parent, record=parent.record | {"steps": 1})
    with pytest.raises(FoleyError, match="was not kept"):
        Parent(elsewhere, optimiser=True).state()
    untrained = train(curated.data(still), lambda _: None)
    assert untrained.id not in (first.id, child.id)
    assert load_file(untrained.path)["layers.0.to_out.weight"].abs().max() < 1e-9
    curated.wh.publish()
    found = trace(curated.wh.home, child.id)
    assert first.id in found["id"].to_pylist()
    assert "clip" not in found["kind"].to_pylist()  # all of a dataset's clips are too many


def test_a_parent_without_its_optimiser_or_with_other_layers_is_refused(
    curated: Curated, preset: Preset
) -> None:
    first = train(curated.data(preset), lambda _: None)  # keeps no state
    parent = Parent(choose_checkpoint(curated.wh, preset, first.id), optimiser=True)
    with pytest.raises(FoleyError, match=r"keep_state"):
        parent.check_state()
    with pytest.raises(FoleyError, match=r"keep_state"):
        train(curated.data(with_training(preset, steps=1)), lambda _: None, parent=parent)
    wider = preset.model_copy(
        update={"bridge": preset.bridge.model_copy(update={"adapter_width": 8})}
    )
    with pytest.raises(WeightsError, match=r"bridge\.adapter_width = 96"):
        replace(parent, optimiser=False).check(wider)
    video = preset.video.model_copy(update={"pooling": "grid2"})
    with pytest.raises(WeightsError, match=r"pooling"):
        replace(parent, optimiser=False).check(preset.model_copy(update={"video": video}))


def test_a_damaged_state_falls_back_to_the_one_before(
    curated: Curated, preset: Preset, caplog: pytest.LogCaptureFixture
) -> None:
    long = with_training(preset, steps=7, checkpoint_every=2)
    whole = train(curated.data(long), lambda _: None)
    shutil.rmtree(whole.path.parent)

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(curated.data(long), stop)
    newest = whole.path.parent / "state.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1  # one bit among the weights, which torch would not notice
    newest.write_bytes(data)
    steps: list[int] = []
    again = train(curated.data(long), lambda p: steps.append(p.step))
    assert "state.pt is damaged" in caplog.text
    assert steps == [5, 6, 7]  # from the state after step 4
    assert again.record["sha256"] == whole.record["sha256"]
    assert not list(whole.path.parent.glob("state*"))


def test_a_damaged_state_is_said_and_not_removed(curated: Curated, preset: Preset) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(curated.data(preset), stop)
    [state] = curated.wh.home.glob("checkpoints/*/state.pt")
    state.write_bytes(b"nonsense")
    with pytest.raises(FoleyError, match=r"state\.pt cannot be read"):
        train(curated.data(preset), lambda _: None)
    assert state.read_bytes() == b"nonsense"


def test_a_child_goes_on_though_its_parent_s_optimiser_is_gone(
    curated: Curated, preset: Preset
) -> None:
    first = train(curated.data(with_training(preset, keep_state=True)), lambda _: None)
    parent = Parent(choose_checkpoint(curated.wh, preset, first.id), optimiser=True)
    longer = with_training(preset, steps=4, learning_rate=1e-4)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    whole = train(curated.data(longer), lambda _: None, parent=parent)
    shutil.rmtree(whole.path.parent)
    with pytest.raises(KeyboardInterrupt):
        train(curated.data(longer), stop, parent=parent)
    for state in first.path.parent.glob("state*"):
        state.unlink()
    again = train(curated.data(longer), lambda _: None, parent=parent)
    assert again.record["sha256"] == whole.record["sha256"]
    assert not train(curated.data(longer), lambda _: None, parent=parent).trained


def test_a_seed_is_part_of_what_was_trained_wherever_it_is_set(
    curated: Curated, preset: Preset
) -> None:
    plain = train(curated.data(preset), lambda _: None)
    other = train(curated.data(with_training(preset, seed=7)), lambda _: None)  # run with seed 0
    assert not other.trained
    assert other.id == plain.id
    assert train(curated.data(preset), lambda _: None, seed=7).id != plain.id
