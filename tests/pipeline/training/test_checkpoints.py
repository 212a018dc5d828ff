"""Checkpoints: whole after a power cut, and those that rotation has to leave."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from model.bridge_file import BridgeFacts
from model.presets.preset import load_preset
from model.training.trainer import Trainer
from pipeline.training.checkpoints import TrainingCheckpoints, choose_checkpoint, find_checkpoint
from tests.model.training.test_trainer import advance, make_trainer
from tests.warehouse.power import disk_of
from warehouse import FoleyError, Warehouse
from warehouse.commits import Descriptor
from warehouse.files import file_sha256

FACTS = BridgeFacts.of(load_preset("toy"), "v", 4.0)
IDENTITY = {"backbone": "b" * 16, "encoder": "e" * 16, "dataset": "all-0001"}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return make_trainer(load_preset("toy"))


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    (tmp_path / "place").mkdir()
    return Warehouse(tmp_path / "place" / "home")


def write(wh: Warehouse, trainer: Trainer, *steps: int) -> TrainingCheckpoints:
    """The checkpoints of a training that wrote some on the way, at these steps."""
    checkpoints = TrainingCheckpoints(wh, "trained", IDENTITY, FACTS)
    for step in steps:
        trainer.step = step
        checkpoints.write(trainer, {"losses": [step]})
    return checkpoints


def steps_of(wh: Warehouse) -> set[int]:
    return {record["steps"] for record in wh.records("checkpoints")}


def test_a_power_cut_at_any_flush_leaves_no_record_without_its_weights(
    wh: Warehouse, trainer: Trainer, tmp_path: Path
) -> None:
    cuts: list[Path] = []
    with disk_of(wh.home.parent) as disk:
        flushed = disk.flushed

        def flush_and_cut(descriptor: int) -> None:
            flushed(descriptor)
            cuts.append(disk.restore(tmp_path / f"cut{len(cuts)}"))

        disk.flushed = flush_and_cut
        write(wh, trainer, 5).write(trainer, {}, final=True)
    after = [Warehouse(cut / "home") for cut in cuts]
    for cut in after:
        for record in cut.records("checkpoints"):
            assert find_checkpoint(cut, record["id"]) is not None
    assert [len(cut.records("checkpoints")) for cut in (after[0], after[-1])] == [0, 2]


def test_what_was_written_is_there_after_a_power_cut(
    wh: Warehouse, trainer: Trainer, tmp_path: Path
) -> None:
    with disk_of(wh.home.parent) as disk:
        write(wh, trainer, 5).write(trainer, {"losses": [1.0]}, final=True)
    after = Warehouse(disk.restore(tmp_path / "after") / "home")
    for id in ("trained", "trained-step000005"):
        ours, theirs = find_checkpoint(after, id), find_checkpoint(wh, id)
        assert ours is not None
        assert theirs is not None
        assert ours.record == theirs.record
        assert ours.path.read_bytes() == theirs.path.read_bytes()
    assert not list(wh.tmp.iterdir())


def test_a_checkpoint_is_the_average_of_the_weights(wh: Warehouse) -> None:
    averaging = advance(make_trainer(load_preset("toy"), ema_decay=0.5), 2)
    TrainingCheckpoints(wh, "trained", IDENTITY, FACTS).write(averaging, {}, final=True)
    written = find_checkpoint(wh, "trained")
    assert written is not None
    saved = load_file(written.path)
    moment = {name: value.clone() for name, value in averaging.bridge.state_dict().items()}
    with averaging.averaged():
        average = averaging.bridge.state_dict()
        assert all(saved[name].equal(value) for name, value in average.items())
    assert not all(saved[name].equal(value) for name, value in moment.items())


def test_nothing_of_a_write_that_fails_is_left(wh: Warehouse, trainer: Trainer) -> None:
    checkpoints = TrainingCheckpoints(wh, "trained", IDENTITY, cast("BridgeFacts", None))
    with pytest.raises(AttributeError):
        checkpoints.write(trainer, {})
    assert (wh.records("checkpoints"), list(wh.tmp.iterdir())) == ([], [])


def test_the_last_good_checkpoint_is_the_newest_up_to_a_step(
    wh: Warehouse, trainer: Trainer
) -> None:
    checkpoints = write(wh, trainer, 2, 10, 4)
    good = {step: checkpoints.last_good(step) for step in (1, 2, 3, 9, 10, 99)}
    step = "trained-step{:06d}".format
    assert good == {1: None, 2: step(2), 3: step(2), 9: step(4), 10: step(10), 99: step(10)}
    assert TrainingCheckpoints(wh, "other", IDENTITY, FACTS).last_good(99) is None


def test_a_clock_that_was_set_back_leaves_the_newest_checkpoint_the_newest(
    wh: Warehouse, trainer: Trainer
) -> None:
    write(wh, trainer, 2)
    [record] = wh.records("checkpoints")
    wh.write_record(
        "checkpoints", record["id"], record | {"created_at": "2099-01-01T00:00:00+00:00"}
    )
    write(wh, trainer, 1)
    newest = max(wh.records("checkpoints"), key=lambda record: record["created_at"])
    assert newest["steps"] == 1


def test_rotation_leaves_the_last_the_best_the_marked_and_the_used(
    wh: Warehouse, trainer: Trainer
) -> None:
    checkpoints = write(wh, trainer, *range(1, 10))
    wh.write_record("evaluations", "e", {"checkpoint": "trained-step000002"})
    wh.write_record("sounds", "s", {"checkpoint": "trained-step000005"})
    wh.write_record("checkpoints", "child", {"parent": "trained-step000007", "steps": 7})
    heard = Descriptor("generate-true", "f", settings={"checkpoint": "trained-step000004"})
    wh.describe(heard)
    validation = [(step, abs(step - 6) + 0.5, 9.0) for step in range(1, 9)]  # the best is step 6
    few = trainer.settings.model_copy(update={"keep_last": 2, "keep_steps": (3,)})
    checkpoints.rotate(few, validation)
    assert steps_of(wh) == {2, 3, 4, 5, 6, 7, 8, 9}
    assert not (wh.home / "checkpoints" / "trained-step000001").exists()
    checkpoints.rotate(few, [])  # nothing was measured: no best
    assert steps_of(wh) == {2, 3, 4, 5, 7, 8, 9}


def test_a_file_that_is_not_what_was_written_is_no_checkpoint(
    wh: Warehouse, trainer: Trainer
) -> None:
    write(wh, trainer, 1, 2)
    id = "trained-step000002"
    written = find_checkpoint(wh, id)
    assert written is not None
    assert (written.id, written.trained) == (id, False)
    assert (written.record["of"], written.record["steps"]) == ("trained", 2)
    whole = written.path.read_bytes()
    written.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert find_checkpoint(wh, id) is None
    written.path.unlink()
    assert find_checkpoint(wh, id) is None
    assert find_checkpoint(wh, "trained") is None


def record_of(trained: str, path: Path, **changes: Any) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trained.encode())
    facts = {"preset": "toy", "steps": 3, "sha256": file_sha256(path)}
    return facts | {"created_at": "2026-01-02", "ablation": False} | changes


@pytest.fixture
def several(wh: Warehouse) -> Warehouse:
    """Checkpoints of two presets, of an ablation, and of a training that is on its way."""
    records: dict[str, dict[str, Any]] = {
        "old": {"created_at": "2026-01-01"},
        "new": {},
        "big": {"preset": "paper", "created_at": "2026-02-01"},
        "odd": {"ablation": True, "created_at": "2026-02-02"},
        "way-step000001": {"of": "way", "created_at": "2026-02-03"},
    }
    for id, changes in records.items():
        path = wh.folder("checkpoints") / id / "bridge.safetensors"
        wh.write_record("checkpoints", id, record_of(id, path, **changes))
    return wh


def test_the_bridge_by_default_is_the_newest_of_the_preset_else_the_shipped(
    several: Warehouse, tmp_path: Path
) -> None:
    toy, paper = load_preset("toy"), load_preset("paper")
    assert choose_checkpoint(several, toy).id == "new"
    assert choose_checkpoint(several, toy, "newest").id == "new"
    assert "the newest in" in choose_checkpoint(several, toy).origin
    assert choose_checkpoint(several, paper).id == "big"
    shipped = toy.weights / "bridge.safetensors"
    empty = Warehouse(tmp_path / "empty")
    for found in (
        choose_checkpoint(several, toy, "shipped"),
        choose_checkpoint(empty, toy),
        choose_checkpoint(None, toy),
    ):
        assert (found.path, found.record["sha256"]) == (shipped, file_sha256(shipped))
    for home in (empty, None):
        with pytest.raises(FoleyError, match="foley train --preset paper"):
            choose_checkpoint(home, paper)
    shutil.rmtree(several.home / "checkpoints" / "new")
    shutil.rmtree(several.home / "checkpoints" / "old")
    assert choose_checkpoint(several, toy).id == "way-step000001"  # better than none


def test_a_bridge_can_be_named_by_its_id_or_its_file(several: Warehouse) -> None:
    toy = load_preset("toy")
    assert choose_checkpoint(several, toy, "old").id == "old"
    assert choose_checkpoint(several, toy, "odd").id == "odd"
    file = several.home / "checkpoints" / "old" / "bridge.safetensors"
    assert choose_checkpoint(None, toy, str(file)).record["steps"] == 3
    with pytest.raises(FoleyError, match="--preset paper"):
        choose_checkpoint(several, toy, "big")
    file.write_bytes(b"other")
    with pytest.raises(FoleyError, match=r"old in .* is damaged"):
        choose_checkpoint(several, toy, "old")
    assert choose_checkpoint(None, toy, str(file)).record.keys() == {"sha256"}  # not what it says
    for name in ("gone", "gone.safetensors", "a/gone"):
        with pytest.raises(FoleyError, match=name):
            choose_checkpoint(several, toy, name)
