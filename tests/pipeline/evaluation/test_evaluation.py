"""Any folder of sounds against any set of videos.

What is matched, what is counted, what is scored, what is kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from model.presets.preset import load_preset
from pipeline.evaluation import tables
from pipeline.evaluation.evaluation import Evaluation, Setup, record, write_tables
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.page import render_page
from pipeline.evaluation.sets import EvaluationSet, evaluation_set, system
from pipeline.report import write_page
from tests.benchmarks.evaluation import evaluate_folders
from tests.browser import CHROMIUM, needs_chromium
from tests.pipeline.evaluation.browsing import LISTEN, is_sorted_by
from tests.pipeline.evaluation.systems import COUNT, write_systems
from warehouse import Warehouse

pytestmark = pytest.mark.slow
PRESET = load_preset("toy")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, and a folder of sounds a system."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_systems(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(home: Path) -> EvaluationSet:
    return evaluation_set(home / "videos", "toy-videos")


@pytest.fixture(scope="module")
def found(home: Path, evaluated: EvaluationSet) -> Evaluation:
    folders = {name: home / name for name in ("same", "late", "damaged")}
    return evaluate_folders(home / "state", evaluated, folders, PRESET, resamples=20)


def setup(home: Path, found: Evaluation, evaluated: EvaluationSet) -> Setup:
    systems = [system(name, home / name, evaluated.items) for name in found.systems]
    return Setup(evaluated, systems, PRESET)


def summary(evaluation: Evaluation) -> str:
    return "\n".join(tables.summary(evaluation.systems, evaluation.counts))


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
        # an inception score is more than six sounds can give
        assert set(found.systems[name]) == {*METRICS} - {"is"}
        assert found.systems[name]["kl_panns"]["clips"] == COUNT
    same, late = found.systems["same"], found.systems["late"]
    assert (
        same["kl_panns"]["value"] < 0.05
    )  # the file differs from the reference by its codec alone
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
    shown = {
        key: counts[key]
        for key in ("videos", "scored", "missing", "broken", "silent", "short", "unknown_files")
    }
    assert shown == {
        "videos": COUNT, "scored": 3, "missing": 1, "broken": 2, "silent": 1, "short": 1,
        "unknown_files": 1,
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
    assert alike == pytest.approx(
        found.clips["same"]["clip-00000"], abs=1e-4
    )  # untouched by its neighbours


@pytest.fixture(scope="module")
def unusual_sounds(home: Path, evaluated: EvaluationSet, found: Evaluation) -> Evaluation:
    """A later evaluation: a system with sounds in all kinds of formats, beside one seen before."""
    assert set(found.systems) == {"same", "late", "damaged"}
    return evaluate_folders(
        home / "state", evaluated, {n: home / n for n in ("same", "unusual")}, PRESET
    )


def test_every_unusual_format_is_heard_and_said(unusual_sounds: Evaluation) -> None:
    counts = unusual_sounds.counts["unusual"]
    assert (counts["scored"], counts["clipped"]) == (COUNT, 1)
    assert counts["problems"] == {
        "clip-00000": "sampled at 8 kHz (nothing above half of that is in it), scored as it is",
        "clip-00002": "5.1 (heard as the mean of all), scored as it is",
        "clip-00003": counts["problems"]["clip-00003"],
    }
    assert counts["problems"]["clip-00003"].startswith("clipped (")
    assert counts["formats"] == {
        "16 kHz mono": 2,
        "8 kHz mono": 1,
        "96 kHz mono": 1,
        "16 kHz 5.1": 1,
        "16 kHz stereo": 1,
    }
    said = summary(unusual_sounds)
    assert "unusual: 2 of 16 kHz mono, 1 of 8 kHz mono" in said
    assert "clip-00002: 5.1 (heard as the mean of all), scored as it is" in said
    for clip, kind in (
        ("clip-00001", "96 kHz"),
        ("clip-00002", "5.1"),
        ("clip-00004", "mono"),
        ("clip-00005", "stereo"),
    ):
        alike, same = (unusual_sounds.clips[name][clip] for name in ("unusual", "same"))
        assert alike["kl_panns"] == pytest.approx(same["kl_panns"], abs=0.05), kind
        assert alike["onset_f1"] == same["onset_f1"], kind


def test_another_system_on_the_same_set_costs_its_own_sounds_alone(
    found: Evaluation, unusual_sounds: Evaluation
) -> None:
    assert (
        found.provenance["todo"]["hear_panns"] == 3 * COUNT + 3
    )  # all but the damaged ones that cannot be heard
    todo = unusual_sounds.provenance["todo"]
    assert {name: count for name, count in todo.items() if name.startswith("watch_")} == {
        "watch_imagebind": 0, "watch_synchformer": 0,
    }  # fmt: skip
    assert {count for name, count in todo.items() if not name.startswith("watch_")} == {COUNT}


def test_what_cannot_be_measured_says_why(
    home: Path, evaluated: EvaluationSet, found: Evaluation
) -> None:
    one = EvaluationSet(evaluated.name, evaluated.items[:1])
    alone = evaluate_folders(home / "state", one, {"same": home / "same"}, PRESET)
    assert "fd_panns" not in alone.systems["same"]
    assert "kl_panns" in alone.systems["same"]
    assert "at least 2 features" in alone.counts["same"]["unmeasured"]["fd_panns"]
    assert "same: FD-PANNs could not be measured: a Frechet distance needs two sets" in summary(
        alone
    )
    few = "an inception score in 10 parts needs at least 20 sounds, not 6"
    assert found.counts["same"]["unmeasured"] == {"is": few}


def test_a_preset_without_some_networks_lacks_their_metrics_alone(
    home: Path, evaluated: EvaluationSet, found: Evaluation
) -> None:
    without = {"passt", "synchformer"}
    models = {name: files for name, files in PRESET.models.items() if name not in without}
    networks = tuple(name for name in PRESET.networks if name not in without)
    preset = PRESET.model_copy(update={"models": models, "networks": networks})
    less = evaluate_folders(home / "state", evaluated, {"same": home / "same"}, preset)
    assert {*found.systems["same"]} - {*less.systems["same"]} == {"kl_passt", "fd_passt", "desync"}
    for name, figure in less.systems["same"].items():
        assert figure["value"] == found.systems["same"][name]["value"]


def test_systems_are_compared_on_the_clips_that_both_have(found: Evaluation) -> None:
    pairs = {(row["a"], row["b"], row["metric"]): row for row in found.comparisons}
    assert pairs["same", "late", "ib"]["clips"] == COUNT
    assert pairs["same", "damaged", "ib"]["clips"] == 3
    assert pairs["same", "late", "ib"]["difference"] > 0
    assert all(0 < row["p"] <= 1 for row in found.comparisons)


def test_a_second_evaluation_hears_and_sees_nothing_again(
    home: Path, evaluated: EvaluationSet, found: Evaluation
) -> None:
    again = evaluate_folders(home / "state", evaluated, {"same": home / "same"}, PRESET)
    assert set(again.provenance["todo"].values()) == {0}
    assert again.clips["same"] == found.clips["same"]


def test_tables_hold_the_measured_and_mark_the_published(found: Evaluation, tmp_path: Path) -> None:
    files = write_tables(tmp_path, found)
    text = files["table2.md"].read_text()
    assert "| damaged | 3 of 6 |" in text
    assert "published, not measured here" in text
    assert "| 0.30* |" in text  # DeSync of FRIEREN, with its warning
    row = next(line for line in text.splitlines() if line.startswith("| *MMAudio*"))
    assert "| *published* |" in row
    assert "| 343.24 |" in row
    assert "not comparable" in text
    assert (
        json.loads(files["evaluation.json"].read_text())["systems"]["same"]["ib"]["clips"] == COUNT
    )


@pytest.fixture(scope="module")
def page_file(home: Path, found: Evaluation, evaluated: EvaluationSet) -> Path:
    return write_page(home / "table2.html", render_page(found, setup(home, found, evaluated)))


def test_the_page_plays_every_system_under_every_chosen_clip(page_file: Path) -> None:
    page = page_file.read_text()
    assert page.count('<article class="clip card"') == COUNT
    # original, same and late everywhere; of the damaged system what can be played
    assert page.count("<audio ") == 3 * COUNT + 3
    assert page.count('class="spectrogram"') == page.count("<audio ")
    assert "published, not measured here" in page
    assert page.count('<circle class="hit"') > 3 * COUNT  # onsets of the sounds that keep time
    for name in ("clip-00001", "missing: there is no file of this name"):
        assert name in page


@needs_chromium
def test_in_a_browser_sounds_switch_while_the_picture_runs_and_clips_are_sorted(
    page_file: Path,
) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(120_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(LISTEN)
        page.goto(page_file.as_uri())
        clip = page.locator("article.clip").first
        clip.get_by_role("button", name="Play").click()
        runs = """() => {
            const video = document.querySelector('article.clip video')
            return !video.paused && video.currentTime > %g
        }"""
        page.wait_for_function(runs % 0.2)
        for name in ("late", "same"):
            page.evaluate("gains.length = 0")
            clip.locator(f".pick input[value={name}]").check()
            assert sorted(page.evaluate("gains"))[-2:] == [0, 1]  # one is heard, the others are not
            assert clip.locator(".lane.heard").get_attribute("class") == f"lane c-{name} heard"
            assert page.evaluate(runs % 0)
        is_sorted_by(page, "DeSync")
        pictures = page.locator("img.spectrogram")
        assert pictures.count() == 3 * COUNT + 3
        assert pictures.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert page.locator("#distributions svg").count() >= 3 * 4
        assert not errors
        browser.close()


def test_records_can_be_queried_by_sql(
    tmp_path: Path, home: Path, found: Evaluation, evaluated: EvaluationSet
) -> None:
    from warehouse import query

    wh = Warehouse(tmp_path)
    record(wh, found, setup(home, found, evaluated))
    wh.publish()
    rows = query(tmp_path, "select system from evaluations order by system").to_pylist()
    assert [row["system"] for row in rows] == ["damaged", "late", "same"]
