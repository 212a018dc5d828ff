"""The page of a curation shows what the dataset holds, with clips to watch and hear."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.metrics.metrics import area_under_roc
from pipeline.curation.dataset_clips import dataset_clips
from pipeline.curation.gates import Condition, Gate
from pipeline.curation.page import BINS, PREVIEW_BYTES, SAMPLES, gather_page, preview
from pipeline.curation.policy import Policy, select
from pipeline.media import probe, read_audio
from pipeline.procedural import BAD_KINDS, FLAWS, Corpus
from pipeline.report import write_page
from pipeline.report.curation import CurationPage, render_curation
from pipeline.scoring.loudness import Silence
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from recipes.toy.policy import threshold
from tests.foley.commands import foley, one_line_error
from tests.pipeline.small import procedural_clips, work
from warehouse import Dataset, FoleyError, Warehouse, field

GOOD, FLAWED = 30, 10
EITHER = (Condition("pq", above=4), Condition("desync", at_most=0.5))
POLICY = Policy(
    "drawn",
    3,
    (
        Gate("quiet", (Condition("silent_share", below=0.9),)),
        Gate("scores", (Condition("imagebind", at_least=0.2), Condition(any=EITHER))),
    ),
    optional=("desync",),
    test=0.2,
)


class Drawn(Stage):
    """Scores that are drawn by the clip's name: no model is needed to show them."""

    name = "drawn"
    upstream = ("silence",)
    schema = pa.schema(
        [
            field("imagebind", pa.float32(), "a cosine"),
            field("pq", pa.float32(), "a quality"),
            field("look", pa.uint64(), "a hash"),
        ]
    )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [
            Passed({"imagebind": a, "pq": b, "look": int(a * 2**60)})
            for a, b in (draw(clip["clip_id"]) for clip in clips)
        ]


def draw(clip_id: str) -> list[float]:
    seed = int.from_bytes(clip_id.encode()[-5:])
    return (np.random.default_rng(seed).random(2, np.float32) * [1, 10]).tolist()


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("look")
    wh = Warehouse(folder / "home")
    wh.ingest(procedural_clips(folder / "clips", Corpus(GOOD, 11, 1.0, flawed=FLAWED)))
    return wh


@pytest.fixture(scope="module")
def dataset(wh: Warehouse) -> Dataset:
    stages: list[Stage] = [Probe(), Silence(), Drawn()]
    fps = fingerprints(stages)
    work(wh, stages, fps)
    found = select(wh, fps, POLICY)
    wh.publish()
    return found


@pytest.fixture(scope="module")
def page(wh: Warehouse, dataset: Dataset) -> CurationPage:
    return gather_page(wh.home, dataset.version)


def members(dataset: Dataset) -> list[dict[str, Any]]:
    return dataset.members(kept=None).to_pylist()


def test_the_funnel_is_the_datasets_and_says_why(page: CurationPage, dataset: Dataset) -> None:
    assert [(s.name, s.dropped, s.left) for s in page.steps] == [
        tuple(row.values()) for row in dataset.funnel
    ]
    by = {step.name: step for step in page.steps if not step.keep}
    said = dict(by["probe"].reasons)
    assert said["no video stream"] == 1
    assert sum(said.values()) == by["probe"].dropped == len(BAD_KINDS) - 1
    assert any(
        text.startswith("truncated: ") for text in said
    )  # the message of a failure, without its file
    assert by["silence"].reasons == (("silent throughout", by["silence"].dropped),)
    assert [step.keep for step in page.steps if step.keep] == [
        "silent_share < 0.9",
        "imagebind ≥ 0.2 and (pq > 4 or desync ≤ 0.5)",
    ]


def test_histograms_count_every_clip_once_and_mark_the_thresholds(
    page: CurationPage, wh: Warehouse, dataset: Dataset
) -> None:
    facts = {fact.name: fact for fact in page.facts}
    passed = wh.rows("drawn", dataset.fingerprints["drawn"])["clip_id"].to_pylist()
    kept = set(dataset.clip_ids())
    for name, i in (("imagebind", 0), ("pq", 1)):
        fact = facts[name]
        values = np.clip([draw(clip)[i] for clip in passed], fact.low, fact.high)
        expected, _ = np.histogram(values, len(fact.clips), (fact.low, fact.high))
        assert list(fact.clips) == expected.tolist()
        assert sum(fact.kept) == len(kept)
    assert facts["imagebind"].bounds == (("≥", 0.2),)
    assert facts["imagebind"].comment == "a cosine"
    assert "look" not in facts  # a hash is more or less of nothing
    assert [fact.name for fact in page.facts][:3] == [
        "silent_share",
        "imagebind",
        "pq",
    ]  # as the gates ask for them
    assert all(fact.low < fact.high and sum(fact.kept) <= sum(fact.clips) for fact in page.facts)


def test_a_threshold_moved_keeps_what_a_policy_with_it_would(
    page: CurationPage, wh: Warehouse, dataset: Dataset
) -> None:
    reached = sum(1 for m in members(dataset) if m["kept"] or m["reason"] in ("quiet", "scores"))
    sweep = next(sweep for sweep in page.sweeps if sweep.condition == "pq > 4")
    assert sweep.kept == pytest.approx(len(dataset.clip_ids()) / reached)
    for bound, share in (sweep.points[10], sweep.points[30]):
        either = Condition(any=(Condition("pq", above=bound), EITHER[1]))
        gate = replace(POLICY.gates[1], keep=(POLICY.gates[1].keep[0], either))
        moved = (POLICY.gates[0], gate)
        other = select(wh, dataset.fingerprints, replace(POLICY, gates=moved), "moved")
        assert share == pytest.approx(len(other.clip_ids()) / reached)
    assert {s.condition for s in page.sweeps} == {
        "silent_share < 0.9",
        "imagebind ≥ 0.2",
        "pq > 4",
    }  # no stage: desync


def test_classes_are_counted_before_and_after(
    page: CurationPage, wh: Warehouse, dataset: Dataset
) -> None:
    label = {row["clip_id"]: row["label"] for row in wh.clips(["clip_id", "label"]).to_pylist()}
    before, after = Counter(label.values()), Counter(label[clip] for clip in dataset.clip_ids())
    assert {row["name"]: (row["clips"], row["kept"]) for row in page.labels} == {
        k: (n, after[k]) for k, n in before.items()
    }


def test_every_bin_has_random_clips_of_its_own(
    page: CurationPage, wh: Warehouse, dataset: Dataset
) -> None:
    reason = {m["clip_id"]: m["reason"] or "kept" for m in members(dataset)}
    counts = Counter(reason.values())
    assert {bin.name: bin.clips for bin in page.bins} == dict(counts)
    assert page.bins[0].name == "kept"
    for bin in page.bins:
        ids = [sample.clip_id for sample in bin.samples]
        assert len(ids) == len(set(ids)) == min(SAMPLES, bin.clips)
        assert {reason[clip] for clip in ids} == {bin.name}
    drawn = [[sample.clip_id for sample in bin.samples] for bin in page.bins]
    again, other = (gather_page(wh.home, dataset.version, seed) for seed in (0, 1))
    assert [[sample.clip_id for sample in bin.samples] for bin in again.bins] == drawn
    assert max(bin.clips for bin in page.bins) > SAMPLES
    assert [[sample.clip_id for sample in bin.samples] for bin in other.bins] != drawn


def test_clips_can_be_watched_and_heard_and_broken_ones_are_named(
    page: CurationPage, tmp_path: Path
) -> None:
    for sample in page.bins[0].samples:
        assert sample.video is not None
        assert len(sample.video) <= PREVIEW_BYTES
    file = tmp_path / "preview.mp4"
    file.write_bytes(page.bins[0].samples[0].video or b"")
    info = probe(file)
    assert info.duration == pytest.approx(1.0, abs=0.1)
    assert np.abs(read_audio(file, 16000)).max() > 0.05
    failed = next(bin for bin in page.bins if bin.name == "probe: failed")
    assert [sample.video for sample in failed.samples] == [None] * failed.clips
    assert any("an empty file" in sample.facts for sample in failed.samples)
    assert preview(tmp_path / "gone.mp4") is None


def test_what_became_of_flawed_clips_is_counted(
    page: CurationPage, wh: Warehouse, dataset: Dataset
) -> None:
    truths = {row["clip_id"]: row["truth"] for row in wh.clips(["clip_id", "truth"]).to_pylist()}
    kinds = {
        clip: re.findall(r'"(?:bad|flaw)": "(\w+)"', text) or ["true"]
        for clip, text in truths.items()
    }
    kept = set(dataset.clip_ids())
    for flaw in (*FLAWS, "true"):
        of = {clip for clip, kind in kinds.items() if kind == [flaw]}
        assert page.flaws[flaw]["kept"] == len(of & kept)
        assert page.flaws[flaw]["dropped"] == len(of - kept)
    assert page.flaws["broken"] == {"kept": 0, "dropped": len(BAD_KINDS)}
    scored = {clip for clip in truths if kinds[clip][0] in (*FLAWS, "true")}
    score = {clip: draw(clip)[0] for clip in scored}
    true, dubbed = (
        [s for c, s in score.items() if kinds[c] == [kind]] for kind in ("true", "misdubbed")
    )
    assert page.flaws["misdubbed"]["auc"] == pytest.approx(area_under_roc(true, dubbed), abs=1e-4)


def test_the_page_is_one_file_that_loads_nothing(
    page: CurationPage, dataset: Dataset, tmp_path: Path
) -> None:
    write_page(tmp_path / "new" / "page.html", render_curation(page))
    text = (tmp_path / "new" / "page.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    links = re.findall(r'(?:src|href)="([^"]{0,22})', text)
    assert links
    assert all(link.startswith(("data:video/mp4;base64,", "data:,", "#")) for link in links)
    assert text.count("<video") == sum(
        sample.video is not None for bin in page.bins for sample in bin.samples
    )
    assert text.count("<video") <= BINS * SAMPLES
    assert dataset.version in text


@pytest.mark.slow
def test_the_command_writes_the_page_of_the_newest_dataset(
    wh: Warehouse, dataset: Dataset, tmp_path: Path
) -> None:
    done = foley(
        "report",
        "curation",
        "--home",
        wh.home,
        "--out",
        tmp_path / "page.html",
        "--dataset",
        dataset.name,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "page.html")
    assert f"<title>Curation of {dataset.version}" in (tmp_path / "page.html").read_text()
    said = one_line_error(foley("report", "curation", "--home", wh.home, "--dataset", "nothing"))
    assert "nothing" in said
    assert dataset.version in said
    with pytest.raises(FoleyError, match="there is nothing in"):
        gather_page(tmp_path / "nowhere")


def test_a_measured_threshold_keeps_the_share_of_true_clips_that_it_is_to_keep(
    wh: Warehouse, dataset: Dataset
) -> None:
    true = "truth->>'$.bad' is null and truth->>'$.flaw' is null"
    with dataset_clips(wh.home, dataset.version) as clips:
        for keep in (0.5, 0.9):
            bound = threshold(clips, "pq", keep)
            rows = clips.rows(f"select pq from dataset_clips where {true}")
            share = np.mean([row["pq"] >= bound for row in rows])
            assert keep <= share <= keep + 2 / GOOD
