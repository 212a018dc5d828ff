"""Ablations: variants differ in one thing alone, and what they write can be read."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import bootstrap, entropy

from model.foley import FoleyControl, SoundRequest
from model.networks.panns import Cnn14
from model.presets.preset import ModelError, Preset, load_preset
from model.weights.files import BRIDGE_FILE
from pipeline.curation.dataset_clips import dataset_clips
from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.evaluation import conditions
from pipeline.evaluation.ablation import (
    Mark,
    Trial,
    VideoAlone,
    figures,
    pooled,
    table,
    trained_to,
    true_sound_stages,
    uncurated,
    write_results,
)
from pipeline.evaluation.conditions import clip_seed, wav_bytes
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.media import decode_audio
from pipeline.media.mono import read_sound
from pipeline.procedural import Corpus
from pipeline.scoring.loudness import Silence
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import Split, fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome, Stage
from pipeline.training.checkpoints import Checkpoint
from tests.pipeline.small import Curated, curate, procedural_clips, short_preset, work
from warehouse import FoleyError, Warehouse


def mark(variant: str, steps: int, kl: float, **others: float) -> Mark:
    figures = {name: {"value": value, "clips": 7} for name, value in others.items()}
    figures["kl_panns"] = {"value": kl, "low": kl - 0.1, "high": kl + 0.2, "clips": 7}
    return Mark(variant, steps, figures, f"{variant}-{steps}")


MARKS = [
    mark("frame", 10, 1.25, v_loss=0.5, f1_60ms=0.25),
    mark("frame", 20, 1.0, v_loss=0.4, f1_60ms=0.5),
    mark("grid2", 10, 1.125, v_loss=0.55),
    mark("grid2", 20, 0.5, v_loss=0.45, f1_60ms=0.75),
]


def test_variants_differ_in_pooling_alone_and_keep_a_checkpoint_at_each_mark() -> None:
    preset = load_preset("toy")
    frame, grid = (pooled(trained_to(preset, [10, 20]), pooling) for pooling in ("frame", "grid2"))
    assert (frame.video.tokens_per_frame, grid.video.tokens_per_frame) == (1, 4)
    assert frame.train == grid.train
    assert (frame.train.steps, frame.train.keep_steps) == (20, (10,))
    assert frame.model_copy(update={"video": grid.video}) == grid
    with pytest.raises(ModelError, match=r"ablation\.poolings.* 'frame', 'grid2'"):
        load_preset("toy", settings=["ablation.poolings=['grid3x']"])


def test_the_table_has_a_row_a_mark_with_kl_first_and_a_figure_for_each_metric(
    tmp_path: Path,
) -> None:
    rows = table(MARKS).splitlines()
    assert rows[0].startswith("| steps | frame: KL-PANNs | F1 at 60 ms | v-loss | grid2: KL-PANNs")
    assert rows[2] == (
        "| 10 | 1.250 (1.150 to 1.450) | 0.250 | 0.5000 | 1.125 (1.025 to 1.325) | - | 0.5500 |"
    )
    assert rows[3] == (
        "| 20 | 1.000 (0.900 to 1.200) | 0.500 | 0.4000 | 0.500 (0.400 to 0.700) | 0.750 | 0.4500 |"
    )
    page = write_results(tmp_path / "ablation", MARKS, {"clips": 7})
    text = page.read_text()
    assert table(MARKS) in text
    assert re.findall(r"\((\S+\.svg)\)", text) == ["ablation-kl_panns.svg", "ablation-f1_60ms.svg"]
    assert json.loads((page.parent / "ablation.json").read_text())["clips"] == 7
    kl, f1 = (polylines(page.parent / name) for name in figures(MARKS))
    assert [len(points) for points in kl] == [2, 2]
    assert kl[0][1] < kl[1][1]  # of a KL less is better, and lower down: y grows downwards
    assert [len(points) for points in f1] == [2, 1]


def polylines(path: Path) -> list[list[float]]:
    """Heights of the points of each line."""
    drawn = ET.fromstring(path.read_text()).iter("{http://www.w3.org/2000/svg}polyline")
    return [[float(xy.split(",")[1]) for xy in line.get("points", "").split()] for line in drawn]


def test_without_a_truth_nothing_is_drawn_of_the_onsets() -> None:
    assert list(figures([mark("frame", 10, 1.0, v_loss=0.5)])) == ["ablation-kl_panns.svg"]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """A home in which PANNs has heard the clips."""
    small = curate(tmp_path_factory.mktemp("ablation"), short_preset())
    heard = true_sound_stages(short_preset())
    work(small.wh, heard, fingerprints(heard), small.dataset.clip_ids("test"))
    return small


@pytest.fixture
def home(curated: Curated, tmp_path: Path) -> Curated:
    """A copy of it, to change."""
    shutil.copytree(curated.wh.home, tmp_path / "home")
    wh = Warehouse(tmp_path / "home")
    return replace(curated, wh=wh, dataset=wh.dataset(curated.dataset.version))


def trial(home: Curated, limit: int | None = None, preset: Preset | None = None) -> Trial:
    """The shipped bridge on the held-out clips."""
    preset = preset or short_preset()
    shipped = Checkpoint("shipped", preset.weights / BRIDGE_FILE, {})
    return Trial.of(replace(home.data(preset), limit=limit), shipped, "frame", 2)


def scored(tried: Trial) -> Mark:
    data = tried.data
    work(data.wh, [tried.stage], data.fingerprints, data.held_out_clips())
    return tried.score()


def logits(tried: Trial) -> dict[str, np.ndarray]:
    rows = tried.data.wh.rows(tried.stage.name, tried.data.fingerprints[tried.stage.name])
    found = ((row["clip_id"], row["panns_logits"]) for row in rows.to_pylist())
    return {clip: np.frombuffer(data, "<f4") for clip, data in found}


def test_kl_is_of_what_panns_hears_in_the_files_of_true_and_generated_sound(
    home: Curated, tmp_path: Path
) -> None:
    tried = trial(home)
    data, preset, wh = tried.data, tried.data.preset, tried.data.wh
    figure = scored(tried).figures["kl_panns"]
    foley = FoleyControl.from_pretrained(preset, tried.checkpoint.path)
    panns = Cnn14.from_pretrained(preset)
    values: list[float] = []
    tokens = wh.rows("video_tokens", data.fingerprints["video_tokens"]).to_pylist()
    for row in wh.clips(None, data.held_out_clips()).to_pylist():
        [video] = [r for r in tokens if r["clip_id"] == row["clip_id"]]
        request = SoundRequest(
            "",
            video["video_seconds"],
            clip_seed(0, row["clip_id"]),
            tokens_from_bytes(preset, video["video_tokens"]),
        )
        [sound] = foley.generate([request])
        (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, preset.sample_rate))
        files = (Path(row["path"]), tmp_path / "sound.wav")
        true, made = (
            softmax(panns.hear([read_sound(file, 16000, preset.evaluation_seconds)])[0].logits)
            for file in files
        )
        values.append(float(entropy(true, made)))
    assert len(values) == len(data.held_out_clips()) == figure["clips"] > 2
    assert figure["value"] == pytest.approx(np.mean(values), rel=1e-2)
    drawn = bootstrap((np.array(values),), np.mean, method="percentile", rng=1)
    assert figure["low"] == pytest.approx(drawn.confidence_interval.low, rel=0.1)
    assert figure["high"] == pytest.approx(drawn.confidence_interval.high, rel=0.1)


class TrueSound(VideoAlone):
    """A model that makes the true sound."""

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        sounds = [decode_audio(Path(clip["path"])).samples for clip in clips]
        return [*self._rows([(sound, SoundRequest("", 1.0)) for sound in sounds])]


def test_the_true_sound_has_no_divergence_from_itself(home: Curated) -> None:
    tried = trial(home)
    tried = replace(tried, stage=TrueSound(tried.data.preset, tried.checkpoint))
    figure = scored(tried).figures["kl_panns"]
    assert figure["high"] < 1e-4


def test_clips_without_a_truth_have_a_dash_for_the_onsets(home: Curated) -> None:
    clips = home.wh.clips(["clip_id", "path", "source", "prompt", "label", "source_video"])
    home.wh.ingest(clips)
    shown = scored(trial(home))
    assert shown.figures.keys() == {"kl_panns", "v_loss"}
    assert table([shown]).splitlines()[2].split(" | ")[2] == "-"


def test_clips_one_by_one_give_what_they_give_together(home: Curated, tmp_path: Path) -> None:
    shutil.copytree(home.wh.home, tmp_path / "second")
    wh = Warehouse(tmp_path / "second")
    together, apart = trial(home), trial(replace(home, wh=wh))
    expected, ids = scored(together), apart.data.held_out_clips()
    stage, prints = apart.stage, apart.data.fingerprints
    todo = plan(wh, stage, prints, ids, Split(batch_size=1))
    assert len(todo.batches) == len(ids)
    for batch in todo.batches[:2]:
        run_batch(wh, stage, todo, batch)
    rest = plan(wh, stage, prints, ids)
    assert (rest.done, rest.todo) == (2, len(ids) - 2)  # a run that was stopped goes on
    found = scored(apart)
    alike = logits(apart)
    assert all(np.allclose(row, alike[clip], atol=1e-2) for clip, row in logits(together).items())
    assert found.figures["kl_panns"] == pytest.approx(expected.figures["kl_panns"], rel=1e-2)


def test_a_limit_is_kept_and_a_scored_mark_is_found_again(home: Curated) -> None:
    limited, everything = trial(home, limit=2), trial(home)
    shown = scored(limited)
    assert {figure["clips"] for figure in shown.figures.values()} == {2}
    assert sorted(logits(limited)) == sorted(home.dataset.clip_ids("test"))[:2]
    assert trial(home, limit=2).known() == shown
    assert everything.known() is None
    scored(everything)
    assert {figure["clips"] for figure in limited.score().figures.values()} == {2}
    assert len(home.wh.records("evaluations")) == 2


def test_a_marks_id_covers_what_makes_its_sounds(
    curated: Curated, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = short_preset()
    ids = {trial(curated).id, trial(curated, limit=3).id}
    for section, changes in (
        ("sample", {"steps": 3}),
        ("sample", {"video_cfg": 2.0}),
        ("sample", {"sigma_max": 1.5}),
        ("window", {"overlap": 0.2}),
    ):
        part = getattr(base, section)
        changed = base.model_copy(update={section: part.model_copy(update=changes)})
        ids.add(trial(curated, preset=changed).id)
    monkeypatch.setattr(conditions, "sampling_dtype", lambda _: torch.bfloat16)
    ids.add(trial(curated).id)
    assert len(ids) == 7


def test_a_preset_without_panns_is_refused_in_one_line() -> None:
    preset = load_preset("toy").model_copy(update={"networks": ("passt",)})
    with pytest.raises(FoleyError, match=r"preset toy leaves panns out.*add it to its networks"):
        true_sound_stages(preset)


def test_the_uncurated_set_has_what_the_policy_dropped_in_the_same_splits(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    corpus = Corpus(12, seconds=1.0, bad=("empty",), flawed=4)
    wh.ingest(procedural_clips(tmp_path / "clips", corpus))
    stages: list[Stage] = [Probe(), Silence()]
    fps = fingerprints(stages)
    work(wh, stages, fps)
    policy = Policy(
        "loud",
        1,
        (Gate("loud", (Condition("silent_share", below=0.5),)),),
        val=0.2,
        test=0.3,
        seed=4,
    )
    dataset = select(wh, fps, policy, "clips")
    found = uncurated(wh, dataset)
    decoded = {row["clip_id"]: row for row in found.members().to_pylist()}
    kept = {row["clip_id"]: row for row in dataset.members().to_pylist()}
    assert set(decoded) == set(wh.rows("silence", fps["silence"])["clip_id"].to_pylist())
    assert len(kept) < len(decoded)
    assert {clip: decoded[clip]["split"] for clip in kept} == {
        clip: row["split"] for clip, row in kept.items()
    }
    wh.publish()
    with dataset_clips(wh.home) as newest:
        assert (
            newest.dataset["version"] == dataset.version
        )  # one made for a comparison is not what comes next
