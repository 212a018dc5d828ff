"""The flows end to end on small corpora.

What curation keeps and drops, and what shows up in Prefect.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.curate import curate
from flows.generate import generate
from flows.maintenance import maintenance
from flows.parameters import CurateParameters, GenerateParameters, MaintainParameters
from flows.running.devices import devices
from pipeline.evaluation.results import funnel
from pipeline.procedural import Corpus, read_ledger, sample_clip, write_clip, write_corpus
from tests.foley.commands import foley, other_than_steps
from warehouse import FoleyError, Warehouse, query

pytestmark = pytest.mark.usefixtures("api")

# where each kind of bad clip must end: the stage, and how
ENDS = {
    "silent": ("silence", "rejected"),
    "no_audio": ("probe", "rejected"),
    "no_video": ("probe", "rejected"),
    "truncated": ("probe", "failed"),
    "not_a_video": ("probe", "failed"),
    "empty": ("probe", "failed"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def curated(api: str, corpus: Path, home: Path) -> Any:
    return curate(CurateParameters(home=home, folder=corpus, name="small", batch_size=6, workers=2))


def kinds(corpus: Path) -> dict[str, str | None]:
    """Clip id -> how the clip is spoiled, None for a good one."""
    return {
        f"small/{Path(file).stem}": row["truth"]["bad"] for file, row in read_ledger(corpus).items()
    }


def files(home: Path) -> dict[str, tuple[int, int]]:
    """Everything that stages and selection have written: path -> (size, time of writing)."""
    found = [
        p
        for name in ("commits", "datasets", "features")
        for p in (home / name).rglob("*")
        if p.is_file()
    ]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def test_good_clips_are_kept_and_bad_ones_dropped_where_they_show(
    curated: Any, corpus: Path, home: Path
) -> None:
    expected = kinds(corpus)
    assert curated.dataset.clip_ids() == sorted(
        clip for clip, kind in expected.items() if kind is None
    )
    assert {c.stage: c.lost for c in curated.stages if c.lost} == {}
    for clip, kind in expected.items():
        if kind is None:
            continue
        stage, status = ENDS[kind]
        found = query(
            home, f"select status, reason, error, message from {stage} where clip_id = ?", [clip]
        ).to_pylist()
        assert [row["status"] for row in found] == [status], (clip, found)
        assert found[0]["reason"] or found[0]["message"]


def test_the_funnel_adds_up(curated: Any, corpus: Path, home: Path) -> None:
    expected = kinds(corpus)
    steps = funnel(Warehouse(home), curated.dataset.fingerprints, sorted(expected))
    reached = len(expected)
    for step in steps:
        assert step["passed"] + step["rejected"] + step["failed"] == reached, step
        assert sum(step["reasons"].values()) == step["rejected"] + step["failed"], step
        assert not any(reason.startswith("/") for reason in step["reasons"])
        reached = step["passed"]
    assert reached == len(curated.dataset.clip_ids())


def test_features_are_cached_for_the_dataset_alone(curated: Any, home: Path) -> None:
    kept = len(curated.dataset.clip_ids())
    for stage in ("video_tokens", "audio_latents", "text_embeddings"):
        rows = query(home, f"select count(*) as n from {stage} where status = 'passed'").to_pylist()
        assert rows == [{"n": kept}]


def test_a_second_run_does_no_work_again(curated: Any, corpus: Path, home: Path) -> None:
    before = files(home)
    again = curate(
        CurateParameters(home=home, folder=corpus, name="small", batch_size=6, max_attempts=1)
    )
    assert [count.batches for count in again.stages] == [0] * len(curated.stages)
    assert again.ingest is not None
    assert (again.ingest.new, again.ingest.changed) == (0, 0)
    assert again.dataset.version == curated.dataset.version
    assert files(home) == before


@pytest.mark.slow
def test_a_second_corpus_with_the_same_settings_touches_only_what_is_new(
    curated: Any, home: Path, tmp_path: Path
) -> None:
    before = files(home)
    del before[str(home / "datasets" / "NEWEST.json")]  # which names the version that comes of it
    new = tmp_path / "more"
    write_corpus(new, Corpus(3, seed=8, seconds=2.0, bad=("silent", "truncated")))
    added = curate(
        CurateParameters(home=home, folder=new, name="more", batch_size=6, max_attempts=1)
    )
    assert {path: stamp for path, stamp in files(home).items() if path in before} == before
    assert [count.processed for count in added.stages] == [5, 4, *[3] * (len(curated.stages) - 2)]
    everything = curate(CurateParameters(home=home, dataset="both", max_attempts=1))
    assert [count.batches for count in everything.stages] == [0] * len(curated.stages)
    assert everything.dataset.clip_ids() == added.dataset.clip_ids()
    assert added.dataset.diff == {"added": 3, "removed": 0, "moved": 0}


def test_a_curation_leaves_its_page(curated: Any, home: Path) -> None:
    page = home / "reports" / f"curation-{curated.dataset.version}.html"
    assert "<video" in page.read_text()


def test_runs_are_kept_with_their_parameters_and_end(curated: Any, home: Path) -> None:
    rows = query(home, "select flow, state, dataset from runs").to_pylist()
    assert {"flow": "curate", "state": "completed", "dataset": curated.dataset.version} in rows


def test_a_folder_without_clips_fails_with_its_reason(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FoleyError, match="empty: no media file"):
        curate(CurateParameters(home=tmp_path / "home", folder=empty))
    records = Warehouse(tmp_path / "home").records("runs")
    assert [(r["flow"], r["state"]) for r in records] == [("curate", "failed")]


@pytest.mark.slow
def test_the_command_reports_to_the_server_at_prefect_api_url(
    api: str, few: Path, home: Path, curated: Any
) -> None:
    done = foley("curate", few, "--home", home, PREFECT_API_URL=api, PREFECT_HOME=None)
    assert done.returncode == 0, done.stderr
    assert "Dataset main-" in done.stdout
    assert not (home / "prefect").exists()  # no server of its own
    record = max(Warehouse(home).records("runs"), key=lambda run: run["started_at"])
    found = httpx.get(f"{api}/flow_runs/{record['flow_run_id']}").raise_for_status().json()
    assert found["state"]["type"] == "COMPLETED"
    assert found["name"] == record["flow_run"]
    assert json.loads(json.dumps(found["parameters"]["parameters"]))["folder"] == str(few)


@pytest.mark.slow
def test_without_a_server_the_command_brings_its_own_and_leaves_none_behind(
    few: Path, tmp_path: Path
) -> None:
    from warehouse.store import Warehouse as Store

    home = tmp_path / "home"
    done = foley("curate", few, "--home", home, PREFECT_API_URL=None, PREFECT_HOME=None)
    assert done.returncode == 0, done.stderr
    assert other_than_steps(done) == []
    assert re.findall(r" probe: (.*) in", done.stderr) == ["4 clips"]
    assert [run["state"] for run in Store(home).records("runs")] == ["completed"]
    assert (home / "prefect" / "prefect.db").stat().st_size > 0
    assert not serving(home), "the server outlived its parent"


def serving(home: Path) -> bool:
    """Whether a process has a file of the home open (Linux), 300 s after the command's end."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        open_files = [_target(link) for link in Path("/proc").glob("[0-9]*/fd/*")]
        if not any(str(home) in name for name in open_files):
            return False
        time.sleep(0.1)
    return True


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def test_a_catalog_that_cannot_be_published_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "catalog.duckdb").mkdir()  # no file can take its place
    assert maintenance(MaintainParameters(home=tmp_path))["problems"] == 0
    [run] = Warehouse(tmp_path).records("runs")
    assert run["state"] == "completed"


@pytest.mark.skipif(bool(devices()), reason="it would sample on a GPU")
def test_a_gpu_that_is_named_is_the_first_of_those_that_torch_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    asked = GenerateParameters(
        home=tmp_path, out=tmp_path / "o.wav", prompt="rain", seconds=1, device="cuda:1"
    )
    with pytest.raises(FoleyError, match=r"device 'cuda' was asked for"):
        generate(asked)


@pytest.mark.slow
def test_sounds_of_a_folder_are_made_and_what_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_clip(sample_clip(1, 1.0), tmp_path / "in" / f"{name}.mp4")
    (tmp_path / "in" / "bad.mp4").write_text("<!doctype html>")
    asked = GenerateParameters(
        home=tmp_path / "home", video=tmp_path / "in", out=tmp_path / "out", prompt="", steps=1
    )
    with pytest.raises(FoleyError, match=r"bad.mp4: not a media file") as caught:
        generate(asked)
    assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"a.mp4", "b.mp4"}
    (tmp_path / "in" / "bad.mp4").unlink()
    assert generate(asked) == tmp_path / "out"
