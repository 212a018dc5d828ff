"""Selection follows the policy, says why it drops, and never divides a source video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.curation.page import thresholds_of
from pipeline.curation.policy import Gate, Policy, load_policy, policies, select
from pipeline.stages.engine import fingerprints, plan
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.warehouse.toys import Facts, Text, make_files, run_all, run_once
from warehouse import Dataset, FoleyError, Warehouse, field

CLIPS = 120
ALL = Policy("all", 1, (), sft="level > 20", val=0.2, test=0.2)


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("select")
    warehouse = Warehouse(folder / "home")
    rows = make_files(folder / "media", CLIPS).to_pylist()
    for i, row in enumerate(rows):
        row["split"] = "test" if i in (9, 30) else "train" if i == 10 else None
    rows[1]["path"] = str(folder / "absent")
    warehouse.ingest(pa.Table.from_pylist(rows))
    pipeline = [Facts(), Text()]
    for stage in pipeline:
        stage.batch_size = 60
    run_all(warehouse, pipeline)
    return warehouse


FPS = fingerprints([Facts(), Text()])


def members(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in dataset.members(kept=None).to_pylist()}


def test_every_drop_has_the_first_reason(wh: Warehouse) -> None:
    gates = (
        Gate("loud", "level >= 3 or n_letters = 6"),
        Gate("short", "level < 40 and level <> 20"),
    )
    found = members(select(wh, FPS, Policy("gates", 1, gates)))
    assert len(found) == CLIPS
    reasons = {i: found[f"clip{i:04d}"]["reason"] for i in (0, 1, 3, 7, 8, 9, 20, 45)}
    assert reasons == {
        0: "loud",
        1: "clips: FileNotFoundError",
        3: None,
        7: "facts: failed",
        8: "facts: failed",
        9: "facts: quiet",
        20: "short",
        45: "short",
    }
    assert all(row["kept"] == (row["reason"] is None) for row in found.values())


def test_splits_follow_source_videos_and_the_source_has_the_first_word(wh: Warehouse) -> None:
    dataset = select(wh, FPS, ALL)
    found = [row for row in members(dataset).values() if row["kept"]]
    splits: dict[str, set[str]] = {}
    for row in found:
        splits.setdefault(row["source_video"], set()).add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    assert {row["split"] for row in found} == {"train", "val", "test"}
    given = {row["clip_id"]: row["split"] for row in found}
    assert given["clip0010"] == given["clip0011"] == "test", (
        "video 3 has a test clip, so it is test, not train"
    )
    assert given["clip0030"] == given["clip0031"] == "test"
    assert (
        sum(dataset.counts[s] for s in ("train", "val", "test"))
        == dataset.counts["kept"]
        == len(found)
    )


def test_subsets_are_what_the_policy_says(wh: Warehouse) -> None:
    dataset = select(wh, FPS, Policy("subsets", 1, (), sft="level > 20", ablation_share=0.5))
    levels = dict(
        zip(
            *(wh.rows("facts", FPS["facts"])[c].to_pylist() for c in ("clip_id", "level")),
            strict=True,
        )
    )
    assert set(dataset.clip_ids(subset="sft")) == {c for c in dataset.clip_ids() if levels[c] > 20}
    ablation, train = set(dataset.clip_ids(subset="ablation")), set(dataset.clip_ids("train"))
    assert ablation < train
    assert 0.3 < len(ablation) / len(train) < 0.7
    again = select(wh, FPS, Policy("again", 1, (), sft="level > 20", ablation_share=0.5))
    assert set(again.clip_ids(subset="ablation")) == ablation


def test_the_same_facts_give_the_same_version_and_others_a_new_one_with_its_difference(
    wh: Warehouse,
) -> None:
    first = select(wh, FPS, Policy("p", 1, (Gate("g", "level < 30"),)), name="versions")
    assert (
        select(wh, FPS, Policy("p", 1, (Gate("g", "level < 30"),)), name="versions").version
        == first.version
    )
    second = select(
        wh, FPS, Policy("p", 2, (Gate("g", "level < 40 and level > 5"),)), name="versions"
    )
    assert (first.number, second.number, second.previous) == (1, 2, first.version)
    old, new = set(first.clip_ids()), set(second.clip_ids())
    assert second.diff == {"added": len(new - old), "removed": len(old - new), "moved": 0}
    assert wh.dataset("versions").version == second.version
    assert wh.dataset(first.version).clip_ids() == first.clip_ids()


def test_the_funnel_leaves_what_is_kept(wh: Warehouse) -> None:
    dataset = select(
        wh, FPS, Policy("funnel", 1, (Gate("a", "level > 5"), Gate("b", "level < 40")))
    )
    assert [step["step"] for step in dataset.funnel] == ["all", "clips", "facts", "text", "a", "b"]
    left = [step["left"] for step in dataset.funnel]
    assert left == sorted(left, reverse=True)
    assert left[0] == CLIPS
    assert left[-1] == dataset.counts["kept"]


def test_a_gate_with_the_name_of_a_stage_counts_its_own_drops(wh: Warehouse) -> None:
    dataset = select(wh, FPS, Policy("same", 1, (Gate("facts", "level < 40"),)))
    assert dataset.funnel[-1]["step"] == "facts"
    assert dataset.funnel[-1]["left"] == dataset.counts["kept"]


def test_unfinished_stages_drop_clips_as_waiting(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 6))
    fps = fingerprints([Facts()])
    plan(wh, Facts(), fps)
    assert {row["reason"] for row in members(select(wh, fps, ALL)).values()} == {"facts: waiting"}
    run_once(wh, [Facts()])
    assert select(wh, fps, ALL).counts["kept"] == 6


class Scores(Stage):
    """All the facts that the house's policies look at."""

    name, batch_size = "scores", 200
    names = ("duration", "silent_share", "imagebind", "ce", "cu", "pc", "pq")
    schema = pa.schema([field(name, pa.float64(), name) for name in names])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed(dict(zip(self.names, self.draw(c["clip_id"]), strict=True))) for c in clips]

    def draw(self, clip_id: str) -> list[float]:
        """Random facts that lie about the thresholds."""
        drawn = np.random.default_rng(int(clip_id[4:])).random(len(self.names))
        return (drawn**0.5 * [10, 0.9, 0.6, 8, 8, 8, 10]).tolist()


@pytest.mark.parametrize("name", ["all", "hunyuan", "mova", "strict", "toy"])
def test_the_policies_of_the_house_do_what_they_publish(wh: Warehouse, name: str) -> None:
    run_once(wh, [Scores()])
    fps = fingerprints([Scores()])
    facts = wh.rows("scores", fps["scores"]).to_pylist()
    bound = {
        t.fact: t.bound for t in thresholds_of([asdict(gate) for gate in load_policy("toy").gates])
    }
    keep = {
        "all": lambda _: True,
        "hunyuan": lambda f: f["silent_share"] <= 0.8,
        "mova": lambda f: (
            f["silent_share"] < 0.8
            and f["pq"] > 5.0
            and f["cu"] > 4.5
            and f["ce"] > 2.5
            and f["imagebind"] >= 0.2
        ),
        "strict": lambda f: (
            f["silent_share"] < 0.5
            and f["pq"] > 5.0
            and f["cu"] > 4.5
            and f["ce"] > 2.5
            and f["imagebind"] >= 0.3
        ),
        "toy": lambda f: (
            f["duration"] >= 1.0
            and f["silent_share"] < 0.95
            and f["imagebind"] >= bound["imagebind"]
            and f["pq"] >= bound["pq"]
        ),
    }[name]
    expected = {f["clip_id"] for f in facts if keep(f)}
    assert name in policies()
    assert expected
    assert set(select(wh, fps, name).clip_ids()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1 = 2", "not valid"),
        ('name = "x"', "version"),
        ('name = "x"\nversion = 1\nnonsense = 3', "nonsense"),
        ('name = "x"\nversion = 1\n[splits]\nval = 0.6\ntest = 0.6', "less than 1"),
        (
            'name = "x"\nversion = 1\n[[gate]]\nname = "g"\nkeep = "no_such_fact > 1"',
            "no_such_fact",
        ),
        ('name = "x"\nversion = 1\n[[gate]]\nname = "g"\nkeep = "level >"', "x"),
    ],
)
def test_a_policy_that_cannot_be_used_is_a_clear_error(
    wh: Warehouse, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(FoleyError, match=message):
        select(wh, FPS, str(path))


def test_unknown_policies_and_datasets_are_clear_errors(wh: Warehouse, tmp_path: Path) -> None:
    for unknown in ("nothing", str(tmp_path / "absent.toml")):
        with pytest.raises(FoleyError):
            load_policy(unknown)
    with pytest.raises(FoleyError, match="nothing"):
        wh.dataset("nothing")
    with pytest.raises(FoleyError, match="a/b"):
        select(wh, FPS, ALL, name="a/b")
