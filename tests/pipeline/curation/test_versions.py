"""Who is in which split and subset, worked out apart from SQL; what makes a version another one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import Facts, Gain, Text, make_files, run_all
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.datasets.corpus import CorpusSettings, Splits, choose_dataset, settle
from warehouse.datasets.members import MEMBERS
from warehouse.datasets.versions import Selected, write_dataset

CLIPS = 200
FPS = fingerprints([Facts(), Text()])
#: Video 4's clips were given three splits, one clip of videos 6 and 7 was given one.
GIVEN = {12: "train", 13: "test", 14: "val", 19: "val", 21: "train"}


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("versions")
    warehouse = Warehouse(folder / "home")
    rows = make_files(folder / "media", CLIPS).to_pylist()
    for number, row in enumerate(rows):
        row["split"] = GIVEN.get(number)
    warehouse.ingest(pa.Table.from_pylist(rows))
    settle(warehouse, CorpusSettings(splits=policy().splits))
    pipeline = [Facts(), Text()]
    for stage in pipeline:
        stage.batch_size = 100
    run_all(warehouse, pipeline)
    return warehouse


def policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {"gates": (), "val": 0.1, "test": 0.3}
    return Policy("p", 1, **(values | changes))


def members(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in dataset.members(kept=None).to_pylist()}


def draw(text: str, seed: int, salt: str) -> float:
    """A number in [0, 1): the second half of the MD5, its bytes from low to high."""
    digest = hashlib.md5(f"{salt}:{seed}:{text}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") / 2**64


def split_of(row: dict[str, Any], splits: Splits) -> str | None:
    """The split of a clip that its facts do not drop, None where it would divide its video."""
    number = draw(row["source_video"], splits.seed, "split")
    drawn = "test" if number < splits.test else "train"
    drawn = "val" if splits.test <= number < splits.test + splits.val else drawn
    own = GIVEN.get(int(row["clip_id"][4:]), drawn)
    given = {GIVEN[n] for n in GIVEN if row["source_video"] == f"video{n // 3:04d}"}
    of_video = next((s for s in ("test", "val", "train") if s in given), drawn)
    return own if own == of_video else None


@pytest.mark.parametrize("seed", [0, 7])
def test_the_draw_follows_from_the_source_video_the_seed_and_the_shares(
    wh: Warehouse, tmp_path: Path, seed: int
) -> None:
    chosen = policy(seed=seed, ablation_share=0.4)
    shutil.copytree(wh.home, tmp_path / "home", ignore=shutil.ignore_patterns("datasets"))
    everyone = members(select(Warehouse(tmp_path / "home"), FPS, chosen, name=f"draw{seed}"))
    kept = [row for row in everyone.values() if row["kept"]]
    divided = [row for row in everyone.values() if (row["reason"] or "").startswith("split: ")]
    assert len(kept) + len(divided) == CLIPS * 7 // 10
    assert {row["clip_id"] for row in divided} >= {"clip0012", "clip0014"}
    assert {split_of(row, chosen.splits) for row in divided} == {None}
    for row in kept:
        assert row["split"] == split_of(row, chosen.splits)
        drawn = draw(row["clip_id"], seed, "ablation") < 0.4
        assert row["ablation"] == (row["split"] == "train" and drawn)
        assert row["sha256"]
    for row in everyone.values():
        if not row["kept"]:
            assert (row["split"], row["sft"], row["ablation"], row["sha256"]) == (
                None, False, False, None,
            )  # fmt: skip
    splits = [row["split"] for row in kept]
    assert splits.count("test") > splits.count("val") > 0
    assert splits.count("train") > splits.count("test")


def test_a_version_counts_its_clips(wh: Warehouse) -> None:
    loud = (Condition("level", at_least=20),)
    dataset = select(wh, FPS, policy(sft=loud, ablation_share=0.5), name="counts")
    rows = [row for row in members(dataset).values() if row["kept"]]
    expected = {
        split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")
    }
    expected |= {name: sum(row[name] for row in rows) for name in ("sft", "ablation")}
    expected |= {"clips": CLIPS, "kept": len(rows), "dropped": CLIPS - len(rows)}
    assert dataset.counts == expected
    for split in ("train", "val", "test"):
        assert len(dataset.clip_ids(split)) == expected[split]
    both = dataset.clip_ids("train", "sft")
    assert both == [r["clip_id"] for r in rows if r["sft"] and r["split"] == "train"]
    with pytest.raises(FoleyError, match="no subset 'loud'"):
        dataset.clip_ids(subset="loud")


def test_no_clip_moves_whatever_is_chosen_by_whom(wh: Warehouse) -> None:
    """Other policies, other shares and seeds, some of the clips alone: splits are the same."""
    first = members(select(wh, FPS, policy(), name="moves"))
    quiet = (Gate("quiet", (Condition("level", below=30),)),)
    others = [
        select(wh, FPS, policy(gates=quiet), name="moves"),
        select(wh, FPS, policy(seed=1, val=0.4, test=0.5), name="moves"),
        select(wh, FPS, policy(), "moves", clip_ids=[f"clip{n:04d}" for n in (14, 15, 19, 20)]),
    ]
    for dataset in others:
        assert dataset.diff["moved"] == 0
        for id, row in members(dataset).items():
            if row["kept"]:
                assert row["split"] == first[id]["split"]
            elif row["reason"] != "quiet":
                assert row["reason"] == first[id]["reason"]
    assert members(others[2])["clip0014"]["reason"].startswith("split: ")  # 13 is a test clip
    assert others[1].policy["seed"] == 0


def test_another_policy_of_the_same_clips_is_another_version(wh: Warehouse) -> None:
    """A version's record says which policy chose it: the same clips are not enough."""
    wide = policy(gates=(Gate("g", (Condition("level", below=1000),)),))
    wider = policy(gates=(Gate("g", (Condition("level", below=2000),)),))
    first = select(wh, FPS, wide, name="same")
    second = select(wh, FPS, wider, name="same")
    assert members(first) == members(second)
    assert (first.number, second.number) == (1, 2)
    assert first.digest != second.digest
    assert second.diff == {"added": 0, "removed": 0, "moved": 0}
    assert select(wh, FPS, wider, name="same").version == second.version
    assert wh.dataset("same").version == second.version
    settle(wh, CorpusSettings(), dataset="same")
    assert select(wh, FPS, wide, name="same") == first  # the same clips again: no third version
    assert wh.dataset("same") == first
    assert choose_dataset(wh) == first
    third = select(wh, FPS, policy(gates=wide.gates, ablation_share=0.9), name="same")
    assert (third.number, third.previous) == (3, first.version)
    assert first.diff == {"added": first.counts["kept"], "removed": 0, "moved": 0}


def test_other_facts_of_the_same_clips_are_another_version(wh: Warehouse, tmp_path: Path) -> None:
    run_all(wh, [Facts(Gain(2.0))])
    twice = fingerprints([Facts(Gain(2.0))])
    first = select(wh, {"facts": FPS["facts"]}, policy(), name="facts")
    second = select(wh, {"facts": twice["facts"]}, policy(), name="facts")
    assert members(first) == members(second)
    assert (second.number, second.fingerprints) == (2, twice)


def test_what_moved_came_and_went_since_the_version_before(wh: Warehouse) -> None:
    """Against a count in Python; only a source that gives another split moves a clip."""
    rows = select(wh, FPS, policy(), name="diffs").members(kept=None).to_pylist()
    split = {"train": "val", "val": "test", "test": "train"}
    for number, row in enumerate(rows):
        if row["kept"] and number % 5 == 0:
            row |= {"kept": False, "split": None, "reason": "gone"}
        elif row["kept"] and number % 3 == 0:
            row["split"] = split[row["split"]]
    second = write_dataset(wh, pa.Table.from_pylist(rows, MEMBERS), Selected("diffs", {}, {}, []))
    third = select(wh, FPS, policy(ablation_share=0.9), name="diffs")
    before, after = (
        {row["clip_id"]: row["split"] for row in dataset.members().to_pylist()}
        for dataset in (second, third)
    )
    moved = sum(before[id] != after[id] for id in before)
    gone = len(after) - len(before)
    assert min(moved, gone) > 0
    assert second.diff == {"added": 0, "removed": gone, "moved": moved}
    assert third.diff == {"added": gone, "removed": 0, "moved": moved}
    versions = [dataset for dataset in wh.datasets() if dataset.name == "diffs"]
    assert [d.previous for d in versions] == [None, versions[0].version, second.version]


def test_a_dataset_may_be_about_some_clips_alone(wh: Warehouse) -> None:
    some = ["clip0000", "clip0008", "clip0050", "absent"]
    dataset = select(wh, FPS, policy(), name="some", clip_ids=some)
    assert {id: row["reason"] for id, row in members(dataset).items()} == {
        "clip0000": None, "clip0008": "facts: failed", "clip0050": None,
    }  # fmt: skip
    assert dataset.counts["clips"] == 3


def test_the_funnel_counts_every_step(wh: Warehouse) -> None:
    gates = (
        Gate("loud", (Condition("level", at_least=5),)),
        Gate("text", (Condition("n_letters", above=0),)),
    )
    dataset = select(wh, FPS, policy(gates=gates), name="funnel")
    reasons = [row["reason"] for row in members(dataset).values()]
    divided = sum((reason or "").startswith("split: ") for reason in reasons)
    assert divided >= 2
    steps = {"facts": 0, "loud": 0, "text": 0}
    for number in range(CLIPS):
        if number % 10 >= 7:
            steps["facts"] += 1
        elif number % 50 < 5:
            steps["loud"] += 1
        elif number % 7 == 0:
            steps["text"] += 1
    assert (reasons.count("loud"), reasons.count("text")) == (steps["loud"], steps["text"])
    left = CLIPS - steps["facts"]
    after = left - steps["loud"]
    assert dataset.funnel == [
        {"step": "all", "dropped": 0, "left": CLIPS},
        {"step": "clips", "dropped": 0, "left": CLIPS},
        {"step": "facts", "dropped": steps["facts"], "left": left},
        {"step": "text", "dropped": 0, "left": left},
        {"step": "loud", "dropped": steps["loud"], "left": after},
        {"step": "text", "dropped": steps["text"], "left": after - steps["text"]},
        {"step": "split", "dropped": divided, "left": dataset.counts["kept"]},
    ]


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.0, 1.0), (0.7, 0.4)])
def test_shares_leave_clips_to_train_on(val: float, test: float) -> None:
    with pytest.raises(ValueError, match="less than 1"):
        policy(val=val, test=test)


def test_rows_that_come_twice_count_once(wh: Warehouse) -> None:
    """Two processes that did the same clips commit two rows of each."""
    (commit, *_) = wh.listing("facts", FPS["facts"]).good
    rows = wh.rows("facts", FPS["facts"], None)
    again = wh.commit("facts", FPS["facts"], "f" * 16, pq.read_table(commit.path))
    try:
        twice = select(wh, FPS, policy(seed=3), name="twice")
        assert twice.counts["clips"] == CLIPS
        assert wh.rows("facts", FPS["facts"], None).equals(rows)
    finally:
        again.unlink()
    assert select(wh, FPS, policy(seed=3), name="twice").version == twice.version
