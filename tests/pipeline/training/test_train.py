"""From a dataset to a checkpoint and its figures, without flows.

Found again, verified, and traceable.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.foley import FoleyControl
from model.presets.preset import Preset
from model.training.divergence import FEWEST
from model.training.trainer import Progress, Trainer
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.conditions import generation_stages
from pipeline.evaluation.held_out import SYSTEMS, evaluate, held_out_set, held_out_systems
from pipeline.media import read_audio
from pipeline.scoring.loudness import Silence
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import fingerprints
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import find_checkpoint
from pipeline.training.train import _identity, _uses, train
from tests.pipeline.small import Curated, with_training, work
from warehouse import FoleyError, Warehouse
from warehouse.datasets.versions import UNCURATED
from warehouse.files import identity_hash


def train_and_die(data: DatasetFeatures, step: int) -> None:
    """Train, in a process of its own, and be killed after a step."""

    def die(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(data, die)


def test_a_checkpoint_is_trained_once_and_again_when_its_file_is_damaged(
    curated: Curated, preset: Preset
) -> None:
    seen: list[Progress] = []
    first = train(curated.data(preset), seen.append)
    assert first.trained
    assert [progress.step for progress in seen] == [1, 2]
    assert all(progress.validation is not None for progress in seen)
    FoleyControl.from_pretrained(preset, first.path)

    again = train(curated.data(preset), seen.append)
    assert not again.trained
    assert again.id == first.id
    assert len(seen) == 2

    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-4] + b"\0\0\0\1")
    restored = train(curated.data(preset), seen.append)
    assert restored.trained
    assert first.path.read_bytes() == whole

    other = train(curated.data(preset), seen.append, seed=1)
    assert other.id != first.id


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(
    curated: Curated, preset: Preset, tmp_path: Path
) -> None:
    """SIGKILL at a step that has no checkpoint, after one that has; then the same call again."""
    long = with_training(
        preset, steps=6, checkpoint_every=2, keep_last=1, validate_every=2, ema_decay=0.9
    )
    other = Warehouse(shutil.copytree(curated.wh.home, tmp_path / "other"))
    whole = train(replace(curated.data(long), wh=other), lambda _: None)

    args = (curated.data(long),)
    child = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(*args, 5))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert find_checkpoint(curated.wh, whole.id) is None
    steps: list[int] = []
    resumed = train(curated.data(long), lambda p: steps.append(p.step))
    assert steps == [5, 6]
    assert resumed.id == whole.id
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    for key in ("losses", "validation", "sha256"):
        assert resumed.record[key] == whole.record[key]
    assert not list(resumed.path.parent.glob("state*"))


def test_a_stop_by_a_person_loses_no_step(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.training_log._POINTS", 2)  # a point every two steps
    long = with_training(preset, steps=5, checkpoint_every=100, validate_every=2)
    losses = list[float]()

    def stop(progress: Progress) -> None:
        losses.append(progress.loss)
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(curated.data(long), stop)
    done = train(curated.data(long), stop)
    assert len(losses) == 5
    pairs = [[2, sum(losses[:2]) / 2], [4, sum(losses[2:4]) / 2], [5, losses[4]]]
    assert done.record["losses"] == pairs
    assert [step for step, *_ in done.record["validation"]] == [2, 4, 5]  # the last one, too


def test_a_stop_while_it_is_measured_loses_neither_step_nor_figure(
    curated: Curated, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = with_training(preset, steps=4, checkpoint_every=2, validate_every=2, keep_last=9)
    other = Warehouse(shutil.copytree(curated.wh.home, tmp_path / "other"))
    whole = train(replace(curated.data(short), wh=other), lambda _: None)

    def stop(trainer: Trainer, _: object) -> None:
        with trainer.averaged():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(curated.data(short), lambda _: None)
    steps: list[int] = []
    resumed = train(curated.data(short), lambda progress: steps.append(progress.step))
    assert steps == [3, 4]
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    for key in ("losses", "validation"):
        assert resumed.record[key] == whole.record[key]
    ids = {record["id"] for record in other.records("checkpoints")}
    assert {record["id"] for record in curated.wh.records("checkpoints")} == ids


def test_a_stop_before_the_first_step_leaves_no_state(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(curated.data(preset), lambda _: None)
    assert not list(curated.wh.home.glob("checkpoints/*/state*"))


def test_checkpoints_on_the_way_are_rotated_and_can_be_used(
    curated: Curated, preset: Preset
) -> None:
    long = with_training(
        preset, steps=9, checkpoint_every=1, keep_last=2, keep_steps=(3,), validate_every=1
    )
    done = train(curated.data(long), lambda _: None)
    kept = {
        record["steps"]: record
        for record in curated.wh.records("checkpoints")
        if record.get("of") == done.id
    }
    best = min(done.record["validation"][:-1], key=lambda row: row[1])[0]
    assert set(kept) == {3, 7, 8, best}
    early = find_checkpoint(curated.wh, kept[3]["id"])
    assert early is not None
    FoleyControl.from_pretrained(preset, early.path)
    assert early.record["dataset"] == curated.dataset.version
    curves = EventAccumulator(str(done.path.parent / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == list(range(1, 10))
    for name in ("clips_per_second", "tflops_per_second", "peak_memory_gb", "grad_norm"):
        assert all(event.value > 0 for event in curves.Scalars(name))
    assert all(0 <= event.value < 1 for event in curves.Scalars("data_wait_share"))
    tags: Any = curves.Tags()["scalars"]
    levels = [tag for tag in tags if tag.startswith("loss_at_noise/")]
    assert sorted(levels)[::4] == ["loss_at_noise/0.0-0.2", "loss_at_noise/0.8-1.0"]


def test_sound_samples_can_be_heard(
    curated: Curated, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bf16 as at full size
    short = with_training(preset, steps=4, precision="bf16", ema_decay=0.5, checkpoint_every=2)
    long = with_training(short, sample_every=2)
    plain = train(curated.data(short), lambda _: None)
    plain_bytes = plain.path.read_bytes()
    shutil.rmtree(plain.path.parent)
    generate, heard = FoleyControl.generate, list[torch.Tensor]()

    def seen(foley: FoleyControl, *given: Any) -> Any:
        heard.append(foley.bridge.get_parameter("layers.0.to_out.weight").detach().clone())
        return generate(foley, *given)

    monkeypatch.setattr(FoleyControl, "generate", seen)
    done = train(curated.data(long), lambda _: None)
    [step] = curated.wh.home.glob("checkpoints/*-step000002/bridge.safetensors")
    torch.testing.assert_close(heard[0], load_file(step)["layers.0.to_out.weight"])  # the average
    sounds = sorted(done.path.parent.glob("samples/step*.flac"))
    assert {path.name[:10] for path in sounds} == {"step000002", "step000004"}
    columns, fingerprint = ["clip_id", "video_seconds"], curated.fingerprints["video_tokens"]
    rows = curated.wh.rows("video_tokens", fingerprint, columns=columns).to_pylist()
    seconds = {row["clip_id"].replace("/", "_"): row["video_seconds"] for row in rows}
    for path in sounds:
        samples = round(seconds[path.stem[11:]] * preset.sample_rate)
        assert len(read_audio(path, preset.sample_rate, "mono")) == samples
    assert done.path.read_bytes() == plain_bytes  # listening changes nothing


def test_divergence_names_the_last_good_checkpoint(curated: Curated, preset: Preset) -> None:
    growing = {"learning_rate": 3e7, "warmup_steps": 10**9}  # by .03 a step
    wild = with_training(preset, steps=50, checkpoint_every=1, keep_last=50, **growing)
    losses: list[float] = []
    with pytest.raises(
        FoleyError, match=r"diverged at step \d+.*the last good checkpoint \(--from "
    ) as error:
        train(curated.data(wild), lambda progress: losses.append(progress.loss))
    step = int(str(error.value).partition("-step")[2][:6])
    most = wild.train.diverged_at * median(losses[:FEWEST])
    assert losses[step] <= most < min(losses[step + 1 :])
    assert len(losses) > step + 10  # there are later checkpoints, which are not good


@pytest.mark.slow
def test_an_evaluation_is_made_once_and_leads_back_to_its_dataset(
    curated: Curated, preset: Preset
) -> None:
    checkpoint = train(curated.data(preset), lambda _: None)
    stages = generation_stages(curated.data(preset), checkpoint)
    held_out = curated.dataset.clip_ids(split="test")
    data = replace(curated.data(preset), fingerprints=fingerprints([*curated.stages, *stages]))
    assert work(curated.wh, stages, data.fingerprints, held_out) == 4 * len(held_out)
    assert work(curated.wh, stages, data.fingerprints, held_out) == 0
    figures = evaluate(data, checkpoint)
    assert figures["clips"] == len(held_out)
    assert set(figures["sync"]) == {"true", "other", "none"}
    records = curated.wh.records("evaluations")
    assert {record["system"] for record in records} == set(SYSTEMS.values()) - {"without-prompt"}
    for record in records:
        assert (record["checkpoint"], record["dataset"]) == (checkpoint.id, curated.dataset.version)
        assert all({"value", "clips"} == set(figure) for figure in record["figures"].values())
    assert evaluate(data, checkpoint) == figures
    assert curated.wh.records("evaluations") == records

    few = replace(curated.data(preset), limit=3)
    stages = generation_stages(few, checkpoint)
    few = replace(few, fingerprints=fingerprints([*curated.stages, *stages]))
    work(curated.wh, stages, few.fingerprints, few.held_out_clips())
    assert evaluate(few, checkpoint)["clips"] == 3
    losses = [
        r["figures"]["v_loss"]
        for r in curated.wh.records("evaluations")
        if "v_loss" in r["figures"]
    ]
    assert {figure["clips"] for figure in losses} == {3, len(held_out)}
    ids = {clip for batch in few.batches("test").rows for clip in batch.tolist()}
    assert {few.split("test").clip_ids()[row] for row in ids} == set(sorted(held_out)[:3])

    evaluated = held_out_set(data)
    systems = held_out_systems(data, checkpoint, evaluated.items)
    assert [s.name for s in systems] == ["foley-control", "another-clips-video", "text-only"]
    for system in systems:
        assert set(system.sounds) == {item.name for item in evaluated.items}
        assert (system.missing, system.unknown) == ((), ())
    for condition, system in zip(("true", "other", "none"), systems, strict=True):
        rows = data.rows(f"generate_{condition}", ("sound",), held_out)
        written = {name: path.read_bytes() for name, path in system.sounds.items()}
        assert written == {clip.replace("/", "_"): row["sound"] for clip, row in rows.items()}
    first, *others = systems[0].sounds
    systems[0].sounds[first].unlink()
    systems[0].sounds[others[0]].write_bytes(b"it is there")
    again = [item for item in evaluated.items if item.name != first]
    assert set(held_out_systems(data, checkpoint, again)[0].sounds) == set(others)
    assert systems[0].sounds[others[0]].read_bytes() == b"it is there"


def test_the_fingerprint_of_other_videos_alone_covers_whose_they_are(
    curated: Curated, preset: Preset
) -> None:
    checkpoint = train(curated.data(preset), lambda _: None)
    stages = generation_stages(curated.data(preset), checkpoint)
    partners = {stage.name: dict(stage.settings.partners) for stage in stages}  # type: ignore[attr-defined]
    held_out = set(curated.dataset.clip_ids(split="test"))
    assert {name for name, of in partners.items() if of} == {"generate_other"}
    assert set(partners["generate_other"]) == held_out


def test_what_weights_depend_on_is_in_the_identity_of_a_training(
    curated: Curated, preset: Preset, tmp_path: Path
) -> None:
    data, seen = curated.data(preset), set[str]()
    features = data.split("train")
    for name in ("backbone.safetensors", "vjepa2/config.json"):
        shutil.copytree(preset.weights, tmp_path / name, dirs_exist_ok=True)
        with (tmp_path / name / name).open("ab") as file:
            file.write(b" ")
    window = preset.window.model_copy(update={"canvas_seconds": 4.0})
    for other in (
        preset,
        preset.model_copy(update={"window": window}),
        preset.model_copy(update={"weights": tmp_path / "backbone.safetensors"}),
        preset.model_copy(update={"weights": tmp_path / "vjepa2/config.json"}),
        with_training(preset, seed=1),
        with_training(preset, learning_rate=1.0),
    ):
        of = replace(data, preset=other)
        seen.add(identity_hash(_identity(of, features, other.train, None)))
    assert len(seen) == 6
    uncurated = replace(data.dataset, role=UNCURATED)
    assert [_uses(one)["ablation"] for one in (data, replace(data, dataset=uncurated))] == [
        False,
        True,
    ]


def test_a_dataset_without_features_cannot_be_trained_on(
    tmp_path: Path, preset: Preset, curated: Curated
) -> None:
    features = StageGraph(preset.model_copy(update={"max_seconds": 0.5})).features
    data = replace(curated.data(preset), fingerprints=fingerprints([Probe(), Silence(), *features]))
    work(curated.wh, features, data.fingerprints, [])
    with pytest.raises(FoleyError, match=r"no clip of .* passed"):
        train(data, lambda _: None)
