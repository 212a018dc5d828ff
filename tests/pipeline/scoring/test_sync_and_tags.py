"""The scoring stages that a preset may configure.

Offset of sound and picture, and what a tagger hears.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.metrics.metrics import OFFSETS, desync
from model.networks.base import Embedded
from model.networks.panns import Cnn14
from model.networks.synchformer import Synchformer
from model.presets.audioset import MUSIC, SPEECH
from model.presets.preset import ModelError, Preset, load_preset
from model.presets.settings import TaggerSettings
from model.weights.load import save_weights
from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.curation.stage_graph import StageGraph
from pipeline.media import Framing, read_frames, write_wav
from pipeline.media.mono import read_sound
from pipeline.procedural import (
    MATERIALS,
    SAMPLE_RATE,
    render_audio,
    render_frames,
    sample_clip,
    write_media,
)
from pipeline.scoring.sync import Sync
from pipeline.scoring.tags import Tagger, Tags
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Stage
from recipes.toy.networks import late, window
from tests.foley.commands import ROOT
from tests.pipeline.curation.test_gates import KEEP, Scores, meets
from tests.warehouse.toys import Facts, make_files, run_once
from warehouse import FoleyError, Warehouse, field

TOY = load_preset("toy")


def with_tagger(preset: Preset, tagger: TaggerSettings | None) -> Preset:
    return preset.model_copy(update={"scores": preset.scores.model_copy(update={"tagger": tagger})})


def names(preset: Preset) -> list[str]:
    return [stage.name for stage in StageGraph(preset).scoring]


def columns(stage: Stage, clips: list[Clip]) -> list[dict[str, float]]:
    stage.setup()
    outcomes = stage.process(clips)
    assert all(isinstance(outcome, Passed) for outcome in outcomes), outcomes
    return [dict(outcome.columns) for outcome in outcomes if isinstance(outcome, Passed)]


def test_a_preset_configures_them(tmp_path: Path) -> None:
    known = ["probe", "silence", "picture", "imagebind", "audiobox"]
    assert names(load_preset("paper")) == known
    assert names(TOY) == [*known, "sync"]
    assert names(with_tagger(TOY, TaggerSettings())) == [*known, "sync", "tags"]
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/curation.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "[scores.tagger]" in block)
    (tmp_path / "preset.toml").write_text(block)
    assert names(load_preset(str(tmp_path))) == [*known, "sync", "tags"]


def test_offsets_are_those_that_evaluation_would_find(tmp_path: Path) -> None:
    # of single clips the toy's network is a poor judge; test_toy_evaluation.py holds that its
    # DeSync follows shifts
    stage, clips, expected = Sync(TOY), list[Clip](), list[dict[str, float]]()
    network = Synchformer.from_pretrained(TOY)
    for i, (offset, seconds) in enumerate(((0.0, 4.0), (1.6, 4.0), (-1.6, 5.0))):
        clip, path = sample_clip(82_000_000 + i, 8.0), tmp_path / f"{i}.mp4"
        write_media(
            path,
            render_frames(window(clip, 2.0, seconds)),
            late(render_audio(clip), offset, cut=False),
        )
        clips.append({"clip_id": path.stem, "path": str(path), "duration": seconds})
        seen = network.watch([read_frames(path, network.times(4.0), Framing(64, 64))])[0].features
        heard = network.hear([read_sound(path, 16000, TOY.evaluation_seconds)])[0].features
        logits = network.offset_logits(seen[None], heard[None])
        offsets = OFFSETS[logits[0].argmax(-1)]
        expected.append({"desync": float(desync(logits)[0]), "sync_offset": float(offsets.mean())})
    assert columns(stage, clips) == [pytest.approx(row, abs=1e-6) for row in expected]
    assert len({row["desync"] for row in expected}) > 1


def test_a_clip_shorter_than_a_window_passes_without_being_read_and_a_broken_one_fails_alone(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    stage = Sync(TOY)
    stage.setup()
    short, failed = stage.process(
        [
            {"clip_id": "short", "path": str(tmp_path / "absent.mp4"), "duration": 3.0},
            {"clip_id": "broken", "path": str(broken), "duration": 4.0},
        ]
    )
    assert short == Passed({"desync": None, "sync_offset": None})
    assert isinstance(failed, Failed)


def test_shares_are_of_time_and_of_the_classes_that_are_named(tmp_path: Path) -> None:
    glass, wood = (
        render_audio(
            next(c for c in (sample_clip(s, 4.0) for s in range(100)) if c.material == material)
        )
        for material in ("glass", "wood")
    )
    sounds = {"glass": glass, "both": np.concatenate([glass, wood, wood[: SAMPLE_RATE * 2]])}
    for name, sound in sounds.items():
        write_wav(tmp_path / f"{name}.wav", sound, SAMPLE_RATE)
    places = {material: {material: MATERIALS.index(material)} for material in ("glass", "wood")}
    tagger = TaggerSettings(speech=places["glass"], music=places["wood"], window=2.0)
    clips: list[Clip] = [
        {"clip_id": name, "path": str(tmp_path / f"{name}.wav")} for name in sounds
    ]
    alone, both = columns(Tags(TOY, tagger), clips)
    assert alone == {"speech_share": 1.0, "music_share": 0.0}
    assert both == {"speech_share": pytest.approx(0.4), "music_share": pytest.approx(0.6)}


class Told:
    """A network that hears its one class as likely as the first sample of a sound says."""

    sample_rate = 10
    fc_audioset = torch.nn.Linear(1, 2)

    def hear(self, sounds: list[np.ndarray]) -> list[Embedded]:
        likely = [float(np.log(sound[0] / (1 - sound[0]))) for sound in sounds]
        return [Embedded(np.zeros(1, np.float32), np.array([one, -9.0])) for one in likely]


def test_a_class_is_heard_from_its_threshold_on_and_a_short_window_is_a_short_time() -> None:
    settings = TaggerSettings(window=2.0, threshold=0.2, speech={"one": 0}, music={"none": 1})
    sound = np.repeat([0.25, 0.15, 0.25], [20, 20, 10])  # of 2 s, 2 s and 1 s
    (heard,) = Tagger(Told(), settings).hear([sound])
    assert heard.speech.tolist() == [True, False, True]
    assert (heard.share("speech"), heard.share("music")) == (pytest.approx(0.6), 0.0)


def test_offsets_to_both_sides_are_apart_and_cancel_in_their_mean_alone() -> None:
    """By a network that finds the first window .4 s early and the last one .4 s late."""
    logits = np.zeros((1, 2, len(OFFSETS)), np.float32)
    for window_, offset in enumerate((-0.4, 0.4)):
        logits[0, window_, np.abs(OFFSETS - offset).argmin()] = 1.0
    features = Embedded(np.zeros((1, 1), np.float32))
    stage = Sync(TOY)
    stage._network = SimpleNamespace(
        watch=lambda given: [features] * len(given),
        hear=lambda given: [features] * len(given),
        offset_logits=lambda seen, heard: logits,
    )
    media = np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.float32)
    (found,) = stage._compare([({}, media)])
    assert found.columns == {
        "desync": pytest.approx(0.4, abs=1e-6),
        "sync_offset": pytest.approx(0.0, abs=1e-6),
    }


def test_places_of_classes_are_those_of_audiosets_own_list() -> None:
    """The hash is of those lines of its class_labels_indices.csv, as `index,display_name`."""
    places = {**SPEECH, **MUSIC}
    lines = "\n".join(f"{place},{name}" for name, place in places.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "9a728159f567b3c2a491064e22bf71ebbd118db10303e962736fd6d7c329acfb"
    )
    assert TaggerSettings() == TaggerSettings(speech=SPEECH, music=MUSIC)


def test_audiosets_classes_are_the_default_and_a_tagger_without_them_is_refused(
    tmp_path: Path,
) -> None:
    tagger = TaggerSettings()
    with pytest.raises(ModelError, match="the tagger has 4 classes"):
        Tags(TOY, tagger).setup()
    sizes: dict[str, Any] = TOY.evaluation["panns"] | {"classes": 527}
    preset = TOY.model_copy(update={"weights": tmp_path, "evaluation": {"panns": sizes}})
    network = Cnn14(**sizes)
    torch.nn.init.zeros_(network.fc_audioset.weight)
    network.fc_audioset.bias.data.fill_(-1.0)[137] = 1.0  # it hears music in everything
    save_weights(tmp_path / "panns.safetensors", network.state_dict())
    write_wav(tmp_path / "a.wav", np.zeros(100, np.float32), SAMPLE_RATE)
    assert columns(Tags(preset, tagger), [{"clip_id": "a", "path": str(tmp_path / "a.wav")}]) == [
        {"speech_share": 0.0, "music_share": 1.0}
    ]


def test_a_policy_says_in_one_line_which_column_is_missing_and_may_call_it_optional(
    tmp_path: Path,
) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 12))
    run_once(wh, [Facts()])
    fps = fingerprints([Facts()])
    louder = Condition("level", at_least=5)
    either = Condition(any=(louder, Condition("desync", at_most=0.5)))
    gates = (Gate("alignment", (either,)),)
    with pytest.raises(
        FoleyError, match="policy p: gate alignment: no stage gives the column desync: configure"
    ) as error:
        select(wh, fps, Policy("p", 1, gates))
    assert "\n" not in str(error.value)
    kept = select(wh, fps, Policy("p", 1, gates, optional=("desync",)))
    assert (
        kept.clip_ids()
        == select(wh, fps, Policy("p", 2, (Gate("alignment", (louder,)),))).clip_ids()
    )


class SyncedScores(Scores):
    """What the house's policies look at, with DeSync for every other clip."""

    schema = pa.schema([*Scores.schema, field("desync", pa.float64(), "DeSync")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        found = [
            dict(outcome.columns)
            for outcome in super().process(clips)
            if isinstance(outcome, Passed)
        ]
        numbers = [int(clip["clip_id"][4:]) for clip in clips]
        return [
            Passed(row | {"desync": None if n % 2 else 2 * n / 120})
            for row, n in zip(found, numbers, strict=True)
        ]


def test_movas_gate_takes_sync_for_alignment_where_it_is_known(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 120))
    run_once(wh, [SyncedScores()])
    fps = fingerprints([SyncedScores()])
    rows = wh.rows("scores", fps["scores"]).to_pylist()
    *others, (by_imagebind, by_desync) = KEEP["mova"]
    good = [r for r in rows if all(any(meets(r, *one) for one in line) for line in others)]
    aligned = {r["clip_id"] for r in good if meets(r, *by_imagebind)}
    synced = {r["clip_id"] for r in good if meets(r, *by_desync)}
    assert synced - aligned
    assert set(select(wh, fps, "mova").clip_ids()) == aligned | synced
