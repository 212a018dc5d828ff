"""The demo, smaller.

Everything from rendering to the report, and a second run that finds it done.
"""

from __future__ import annotations

import asyncio
import base64
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.pictures import training_svg
from tests.foley.commands import foley, other_than_steps
from warehouse import Warehouse, query

# minutes on idle cores; beside the other tests on a slow machine it took 14
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CLIPS = 160
STEPS = 300
SEED = 3
ARGUMENTS = ("demo", "--clips", str(CLIPS), "--steps", str(STEPS), "--seed", str(SEED))


@pytest.fixture(scope="module")
def home(api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "home"
    done = foley(*ARGUMENTS, "--home", folder)
    assert done.returncode == 0, done.stderr
    assert other_than_steps(done) == []  # no bars without a terminal, no warnings
    assert " train: 300 steps in " in done.stderr
    assert str(folder / "reports" / "report.html") in done.stdout
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    return json.loads((home / "reports" / "results.json").read_text())


def files(home: Path) -> dict[str, tuple[int, int]]:
    """Everything but run records, catalog and Prefect's own: path -> (size, time of writing)."""
    names = ("clips", "commits", "datasets", "features", "checkpoints", "evaluations", "reports")
    found = [p for name in names for p in (home / name).rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def test_sound_follows_the_picture_and_nothing_else(results: dict[str, Any]) -> None:
    sync = {name: figures["f1_60ms"] for name, figures in results["sync"].items()}
    assert sync["true"] > 0.5
    assert sync["true"] > 2 * max(sync["other"], sync["none"])


def test_the_video_helps_and_a_wrong_one_harms(results: dict[str, Any]) -> None:
    loss = results["v_loss"]
    assert loss["true"] < loss["null"] < loss["other"]


def test_the_prompt_sets_the_material_and_leaves_the_time(results: dict[str, Any]) -> None:
    swap = results["prompt_swap"]
    assert swap["material_accuracy"] > 0.7
    assert abs(swap["f1_60ms"] - results["sync"]["true"]["f1_60ms"]) < 0.2


def test_results_say_under_what_they_came_about(results: dict[str, Any], home: Path) -> None:
    assert results["seed"] == SEED
    assert results["steps"] == STEPS
    assert {"render", "curate", "train", "evaluate", "report", "total"} <= results["seconds"].keys()
    parts = [seconds for step, seconds in results["seconds"].items() if step != "total"]
    assert sum(parts) == pytest.approx(results["seconds"]["total"], rel=0.1)
    assert {"python", "torch", "prefect", "duckdb"} <= results["versions"].keys()
    checkpoint = Warehouse(home).record("checkpoints", results["checkpoint"])
    assert checkpoint["dataset"] == results["dataset"]


def test_the_curves_of_the_training_are_a_picture_in_the_ui(
    results: dict[str, Any], home: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async def pictures() -> list[str]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["training"]))
            )
            return [str(artifact.data).partition("base64,")[2] for artifact in found]

    record = Warehouse(home).record("checkpoints", results["checkpoint"])
    drawn = training_svg(record["losses"], record["validation"])
    assert drawn.encode() in map(base64.b64decode, asyncio.run(pictures()))
    curves = dict(zip(*_curves(drawn), strict=True))
    assert list(curves) == ["training", "own video", "no video", "another's video"]
    assert [len(points) for points in curves.values()] == [300, 3, 3, 3]
    last = {name: float(points[-1].split(",")[1]) for name, points in curves.items()}
    assert (
        last["another's video"] < last["no video"] < last["own video"]
    )  # a higher loss is higher up


def _curves(svg: str) -> tuple[list[str], list[list[str]]]:
    """Names in the legend, and points of the curves."""
    space = "{http://www.w3.org/2000/svg}"
    drawn = ET.fromstring(svg)
    names = [str(text.text) for text in drawn.iter(f"{space}text") if text.get("y") == "314"]
    return names, [line.get("points", "").split() for line in drawn.iter(f"{space}polyline")]


def test_the_funnel_starts_with_every_file_and_ends_with_the_good_clips(
    results: dict[str, Any], home: Path
) -> None:
    funnel = results["funnel"]
    corpus = list((home / "clips").glob("*/*.mp4"))
    assert funnel[0]["passed"] + funnel[0]["rejected"] + funnel[0]["failed"] == len(corpus)
    assert (
        CLIPS <= funnel[-1]["passed"] <= CLIPS + CLIPS // 2
    )  # a degraded clip may be silent throughout
    flaws = results["curation"]
    assert flaws["true"]["kept"] + flaws["true"]["dropped"] == CLIPS
    flawed = [flaws[kind][end] for kind in ("misdubbed", "degraded") for end in ("kept", "dropped")]
    assert sum(flawed) == CLIPS // 2


def test_scores_find_what_is_wrong_with_good_files(results: dict[str, Any], home: Path) -> None:
    flaws = results["curation"]
    assert flaws["misdubbed"]["auc"] >= 0.95
    assert flaws["degraded"]["auc"] >= 0.9
    kept = {kind: row["kept"] / (row["kept"] + row["dropped"]) for kind, row in flaws.items()}
    assert kept["true"] > 0.9
    assert max(kept["misdubbed"], kept["degraded"]) < 0.2
    assert (home / "reports" / f"curation-{results['dataset']}.html").is_file()


def test_what_is_held_out_are_true_clips(results: dict[str, Any], home: Path) -> None:
    sql = (
        "select count(*) as n from dataset_members join clips using (clip_id)"
        " where kept and dataset_members.split <> 'train'"
    )
    flawed = query(home, f"{sql} and truth->>'$.flaw' is not null").to_pylist()
    assert flawed == [{"n": 0}]
    assert query(home, f"{sql} and dataset_members.split = 'test'").to_pylist() == [
        {"n": results["held_out_clips"]}
    ]


def test_every_sound_is_in_the_catalog(results: dict[str, Any], home: Path) -> None:
    for condition in ("true", "other", "none", "swap"):
        sql = f"select count(*) as n from generate_{condition} where status = 'passed'"
        assert query(home, sql).to_pylist() == [{"n": results["held_out_clips"]}]


def test_a_second_demo_does_nothing_again_and_says_so(home: Path, results: dict[str, Any]) -> None:
    before = files(home)
    done = foley(*ARGUMENTS, "--home", home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Nothing to do: every stage was done before.")
    assert files(home) == before
    assert json.loads((home / "reports" / "results.json").read_text()) == results
