"""Any folder of sounds against any set of videos: what is matched, what is counted, what is scored, what is kept."""

from __future__ import annotations

import csv
import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest

from model.presets import load_preset
from pipeline.evaluation import tables
from pipeline.evaluation.page import worst_and_best, write_page
from pipeline.evaluation.reading import check_sound, read_sound
from pipeline.evaluation.run import Evaluation, record, write_tables
from pipeline.evaluation.scoring import best_offset
from pipeline.evaluation.sets import EvaluationSet, System, evaluation_set, system
from pipeline.media import MediaError, write_wav
from pipeline.procedural import SAMPLE_RATE, render_audio, sample_clip, write_clip, write_corpus
from tests.benchmarks.evaluation import evaluate_folders, shifted
from warehouse import FoleyError, Warehouse

PRESET = load_preset("toy")
COUNT = 6
BROKEN = ("missing", "broken", "silent", "short", "nan")


def write_float_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """32-bit float samples [n] or [n, channels], NaN and all, which no writer of ours makes."""
    data = np.asarray(samples, "<f4")
    channels = 1 if data.ndim == 1 else data.shape[1]
    body = data.tobytes()
    parts = (3, channels, rate, rate * channels * 4, channels * 4, 32)
    sizes = (2, 2, 4, 4, 2, 2)
    form = b"".join(value.to_bytes(size, "little") for value, size in zip(parts, sizes, strict=True))
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + form + b"data" + len(body).to_bytes(4, "little")
    path.write_bytes(b"RIFF" + (len(head) + len(body)).to_bytes(4, "little") + head + body)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos with their own sound; a system that repeats it, one that is late, and one with all kinds of damage."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = write_corpus(folder / "videos", COUNT, seed=78, bad=())
    for name in ("same", "late", "damaged"):
        (folder / name).mkdir()
    for i, row in enumerate(rows):
        audio = render_audio(sample_clip(row["truth"]["seed"]))
        stem = Path(row["file"]).stem
        write_wav(folder / "same" / f"{stem}.wav", audio, SAMPLE_RATE)
        write_wav(folder / "late" / f"{stem}.wav", shifted(audio, 1.2), SAMPLE_RATE)
        path = folder / "damaged" / f"{stem}.wav"
        kind = ("", *BROKEN)[i]
        if kind == "broken":
            path.write_bytes(b"RIFF is not enough")
        elif kind == "silent":
            write_wav(path, np.zeros_like(audio), SAMPLE_RATE)
        elif kind == "short":
            write_wav(path, audio[: SAMPLE_RATE // 10], SAMPLE_RATE)
        elif kind == "nan":
            write_float_wav(path, np.full(1000, np.nan), SAMPLE_RATE)
        elif kind == "":
            write_wav(path, audio, SAMPLE_RATE)
    write_wav(folder / "damaged" / "clip-99999.wav", np.ones(100, np.float32), SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def evaluated(home: Path) -> EvaluationSet:
    return evaluation_set(home / "videos", "toy-videos")


@pytest.fixture(scope="module")
def found(home: Path, evaluated: EvaluationSet) -> Evaluation:
    folders = {name: home / name for name in ("same", "late", "damaged")}
    return evaluate_folders(home / "state", evaluated, folders, PRESET, resamples=20)


def test_a_set_is_its_videos_with_prompts_and_truth(evaluated: EvaluationSet) -> None:
    assert len(evaluated.items) == COUNT
    item = evaluated.items[0]
    assert item.name == "clip-00000"
    assert item.reference == item.video
    assert item.prompt
    assert item.truth is not None
    assert item.truth["impacts"]


def test_every_metric_is_there_and_says_what_the_sounds_are(found: Evaluation) -> None:
    for name in ("same", "late"):
        assert set(found.systems[name]) == {*tables.TITLES}
        assert found.systems[name]["kl_panns"]["clips"] == COUNT
    same, late = found.systems["same"], found.systems["late"]
    assert same["kl_panns"]["value"] < 0.05  # the file differs from the reference by its codec alone
    assert same["onset_f1"]["value"] > 0.9 > late["onset_f1"]["value"]
    assert same["true_offset"]["value"] < 0.05
    assert late["true_offset"]["value"] == pytest.approx(1.2, abs=0.3)
    assert same["ib"]["value"] > late["ib"]["value"]
    assert same["desync"]["value"] < late["desync"]["value"]
    for figures in found.systems.values():
        for metric, figure in figures.items():
            if "low" in figure:
                assert figure["low"] <= figure["value"] <= figure["high"], metric


def test_damage_is_counted_and_named_and_nothing_takes_its_place(found: Evaluation) -> None:
    counts = found.counts["damaged"]
    shown = {key: counts[key] for key in ("videos", "scored", "missing", "broken", "silent", "short", "unknown_files")}
    assert shown == {
        "videos": COUNT, "scored": 3, "missing": 1, "broken": 2, "silent": 1, "short": 1, "unknown_files": 1,
    }  # fmt: skip
    problems = counts["problems"]
    assert problems["clip-00001"].startswith("missing")
    assert problems["clip-00002"].startswith("broken")
    assert problems["clip-00003"].startswith("silent")
    assert problems["clip-00004"].startswith("short (0.10 s)")
    assert "not numbers" in problems["clip-00005"]
    assert counts["unknown"] == ["clip-99999"]
    assert set(found.clips["damaged"]) == {"clip-00000", "clip-00003", "clip-00004"}
    alike = found.clips["damaged"]["clip-00000"]
    assert alike == pytest.approx(found.clips["same"]["clip-00000"], abs=1e-4)  # untouched by its neighbours


def test_systems_are_compared_on_the_clips_that_both_have(found: Evaluation) -> None:
    pairs = {(row["a"], row["b"], row["metric"]): row for row in found.comparisons}
    assert pairs["same", "late", "ib"]["clips"] == COUNT
    assert pairs["same", "damaged", "ib"]["clips"] == 3
    assert pairs["same", "late", "ib"]["difference"] > 0
    assert all(0 < row["p"] <= 1 for row in found.comparisons)


def test_a_second_evaluation_hears_and_sees_nothing_again(
    home: Path, evaluated: EvaluationSet, found: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.evaluation.network import EvaluationNetwork

    def heard_again(*_: object) -> None:
        raise AssertionError("a network was run again")

    monkeypatch.setattr(EvaluationNetwork, "hear", heard_again)
    again = evaluate_folders(home / "state", evaluated, {"same": home / "same"}, PRESET)
    assert again.clips["same"] == found.clips["same"]


def test_tables_hold_the_measured_and_mark_the_published(found: Evaluation, tmp_path: Path) -> None:
    files = write_tables(tmp_path, found)
    text = files["table2.md"].read_text()
    assert "| damaged | 3 of 6 |" in text
    assert "published, not measured here" in text
    assert "0.300*" in text  # DeSync of FRIEREN, with its warning
    rows = list(csv.DictReader(io.StringIO(files["table2.csv"].read_text())))
    by_name = {row["system"]: row for row in rows}
    assert float(by_name["late"]["desync"]) == found.systems["late"]["desync"]["value"]
    assert by_name["MMAudio"]["origin"] == "published"
    assert by_name["MMAudio"]["fd_passt"] == "343.24"
    assert "not comparable" in by_name["MMAudio"]["note"]
    latex = files["table2.tex"].read_text()
    assert latex.count(r"\\") == 3 + 6 + 2
    assert json.loads(files["evaluation.json"].read_text())["systems"]["same"]["ib"]["clips"] == COUNT


def test_the_published_rows_are_those_of_the_paper() -> None:
    rows = {row["system"]: row for row in tables.published()["row"]}
    assert len(rows) == 6
    ours = rows["Foley Control (the paper's)"]
    assert [ours[m] for m in ("kl_panns", "kl_passt", "ib", "fd_vgg", "fd_panns", "fd_passt", "desync")] == [
        2.93, 2.59, 0.20, 5.89, 31.10, 383.99, 0.32,
    ]  # fmt: skip


def test_the_page_plays_every_system_under_every_chosen_clip(
    home: Path, found: Evaluation, evaluated: EvaluationSet, tmp_path: Path
) -> None:
    systems = [system(name, home / name, evaluated.items) for name in found.systems]
    write_page(tmp_path / "table2.html", found, evaluated, systems, PRESET)
    page = (tmp_path / "table2.html").read_text()
    assert page.count('<article class="clip card"') == COUNT
    # original, same and late everywhere; of the damaged system what can be played
    assert page.count("<audio ") == 3 * COUNT + 3
    assert page.count('class="spectrogram"') == page.count("<audio ")
    assert "published, not measured here" in page
    assert page.count('<circle class="hit"') > 3 * COUNT  # onsets of the sounds that keep time
    for name in ("clip-00001", "missing: there is no file of this name"):
        assert name in page


def test_records_can_be_queried_by_sql(tmp_path: Path, found: Evaluation) -> None:
    from warehouse import query

    wh = Warehouse(tmp_path)
    record(wh, found, PRESET)
    wh.publish()
    rows = query(tmp_path, "select system from evaluations order by system").to_pylist()
    assert [row["system"] for row in rows] == ["damaged", "late", "same"]


def test_the_worst_and_best_clips_are_chosen_by_all_clip_metrics() -> None:
    rows = {f"c{i}": {"kl_panns": float(i), "ib": -float(i)} for i in range(20)}
    chosen = worst_and_best({"a": rows}, list(rows), count=4)
    assert chosen == ["c19", "c18", "c1", "c0"]


def test_layouts_of_vggsound_and_kinetics(tmp_path: Path) -> None:
    for name in ("-abc_123DEF_000030", "zzzzzzzzzzz_000007"):
        write_clip(sample_clip(1, 1.0), tmp_path / f"{name}.mp4")
    rows = "-abc_123DEF,30,dog barking,test\nzzzzzzzzzzz,7,sea waves,train\nlost_lost_x,1,rain,test\n"
    (tmp_path / "vggsound.csv").write_text(rows)
    vggsound = evaluation_set(tmp_path)
    assert [(i.name, i.prompt) for i in vggsound.items] == [("-abc_123DEF_000030", "dog barking")]
    assert vggsound.missing == ("lost_lost_x_000001",)
    (tmp_path / "vggsound.csv").unlink()
    (tmp_path / "-abc_123DEF_000030.mp4").rename(tmp_path / "-abc_123DEF_000030_000040.mp4")
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nflying kite,-abc_123DEF,30,40,validate\n"
    )
    assert [(i.name, i.label) for i in evaluation_set(tmp_path).items] == [("-abc_123DEF_000030_000040", "flying kite")]


def test_movie_gens_layout_prompts_beside_and_sounds_apart(tmp_path: Path) -> None:
    (tmp_path / "videos" / "metadata").mkdir(parents=True)
    (tmp_path / "sounds").mkdir()
    write_clip(sample_clip(1, 1.0), tmp_path / "videos" / "7.mp4")
    (tmp_path / "videos" / "metadata" / "7.json").write_text('{"prompt": "a video", "audio_prompt": "rain falls"}')
    write_wav(tmp_path / "sounds" / "7.wav", np.zeros(100, np.float32), SAMPLE_RATE)
    item = evaluation_set(tmp_path / "videos", reference=tmp_path / "sounds").items[0]
    assert (item.prompt, item.reference) == ("rain falls", tmp_path / "sounds" / "7.wav")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: evaluation_set(p / "nowhere"), "no such folder, give the folder that holds the evaluation videos"),
        (evaluation_set, "no videos in it"),
        (lambda p: system("x", p / "nowhere", ()), "no such folder, give the folder with the sounds of system x"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(tmp_path: Path, make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(FoleyError, match=said):
        make(tmp_path)


def test_wrong_names_and_doubled_names_are_said(home: Path, evaluated: EvaluationSet, tmp_path: Path) -> None:
    write_wav(tmp_path / "other.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    with pytest.raises(FoleyError, match=r"no file is named as a video is \(such as clip-00000.wav\)"):
        system("x", tmp_path, evaluated.items)
    write_wav(tmp_path / "clip-00000.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    write_wav(tmp_path / "clip-00000.flac.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    found = system("x", tmp_path, evaluated.items)
    assert isinstance(found, System)
    (tmp_path / "deeper").mkdir()
    write_wav(tmp_path / "deeper" / "clip-00000.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    with pytest.raises(FoleyError, match="a second file named clip-00000"):
        system("x", tmp_path, evaluated.items)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_sounds_of_any_rate_and_layout_are_heard_alike(tmp_path: Path, rate: int, channels: int) -> None:
    t = np.arange(rate * 2) / rate
    tone = 0.2 * np.sin(2 * np.pi * 440 * t)
    loud = np.stack([tone * (2 if c == 0 else 1) for c in range(channels)], 1) + 0.1  # DC, and a louder left channel
    write_float_wav(tmp_path / "a.wav", loud, rate)
    heard = read_sound(tmp_path / "a.wav", 16000, seconds=1.5)
    assert heard.shape == (24000,)
    share = (channels + 1) / channels
    expected = 0.2 * share * np.sin(2 * np.pi * 440 * np.arange(24000) / 16000)
    np.testing.assert_allclose(heard[200:-200], expected[200:-200], atol=0.01)
    left = read_sound(tmp_path / "a.wav", 16000, 1.5, "left")
    np.testing.assert_allclose(left[200:-200], expected[200:-200] * 2 / share, atol=0.01)
    facts = check_sound(tmp_path / "a.wav", 1.5)
    assert (facts["sound_channels"], facts["sound_rate"]) == (channels, rate)
    assert facts["sound_seconds"] == pytest.approx(2.0, abs=0.01)


def test_a_clipped_sound_is_noted_and_an_empty_one_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "clipped.wav", np.sign(np.sin(np.arange(16000))).astype(np.float32), 16000)
    assert check_sound(tmp_path / "clipped.wav", 4.0)["sound_clipped_share"] > 0.9
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    with pytest.raises(MediaError):
        check_sound(tmp_path / "empty.wav", 4.0)


@pytest.mark.parametrize("late", [-1.5, -0.3, 0.0, 0.7, 1.9])
def test_the_true_offset_is_where_most_onsets_agree(late: float) -> None:
    impacts = np.array([0.3, 0.9, 1.7, 2.2, 3.1])
    onsets = np.concatenate([impacts + late, [0.55, 2.05]])  # two that mean nothing
    assert best_offset(impacts, onsets) == pytest.approx(late, abs=0.03)
