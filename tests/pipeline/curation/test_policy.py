"""Selection follows the policy, says why it drops, and never divides a source video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, load_policy, select
from pipeline.stages.engine import fingerprints, plan
from tests.warehouse.toys import Facts, Text, make_files, run_all, run_once
from warehouse import Dataset, FoleyError, Warehouse
from warehouse.datasets.corpus import CorpusSettings, Splits, settle

CLIPS = 120
LOUD = (Condition("level", above=20),)
ALL = Policy("all", 1, (), sft=LOUD, val=0.2, test=0.2)


def level(**comparisons: Any) -> tuple[Condition]:
    return (Condition("level", **comparisons),)


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("select")
    warehouse = Warehouse(folder / "home")
    rows = make_files(folder / "media", CLIPS).to_pylist()
    for i, row in enumerate(rows):
        row["split"] = "test" if i in (9, 30) else "train" if i == 10 else None
    rows[1]["path"] = str(folder / "absent")
    warehouse.ingest(pa.Table.from_pylist(rows))
    settle(warehouse, CorpusSettings(splits=Splits(0.2, 0.2)))
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
        Gate("loud", (Condition(any=(*level(at_least=3), Condition("n_letters", equals=6))),)),
        Gate("short", level(below=40, not_equals=20)),
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
    assert given["clip0030"] == "test"
    every = members(dataset)  # video 3 was given test, though for a clip that is dropped
    assert every["clip0010"]["reason"] == "split: its source video is in another"
    assert {given.get(f"clip00{n}", "test") for n in (11, 31, 32)} == {"test"}
    assert (
        sum(dataset.counts[s] for s in ("train", "val", "test"))
        == dataset.counts["kept"]
        == len(found)
    )


def test_subsets_are_what_the_policy_says(wh: Warehouse) -> None:
    dataset = select(wh, FPS, Policy("subsets", 1, (), sft=LOUD, ablation_share=0.5))
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
    again = select(wh, FPS, Policy("again", 1, (), sft=LOUD, ablation_share=0.5))
    assert set(again.clip_ids(subset="ablation")) == ablation


def test_the_same_facts_give_the_same_version_and_others_a_new_one_with_its_difference(
    wh: Warehouse,
) -> None:
    first = select(wh, FPS, Policy("p", 1, (Gate("g", level(below=30)),)), name="versions")
    assert (
        select(wh, FPS, Policy("p", 1, (Gate("g", level(below=30)),)), name="versions").version
        == first.version
    )
    second = select(
        wh, FPS, Policy("p", 2, (Gate("g", level(below=40, above=5)),)), name="versions"
    )
    assert (first.number, second.number, second.previous) == (1, 2, first.version)
    old, new = set(first.clip_ids()), set(second.clip_ids())
    assert second.diff == {"added": len(new - old), "removed": len(old - new), "moved": 0}
    assert wh.dataset("versions").version == second.version
    assert wh.dataset(first.version).clip_ids() == first.clip_ids()


def test_the_funnel_leaves_what_is_kept(wh: Warehouse) -> None:
    dataset = select(
        wh, FPS, Policy("funnel", 1, (Gate("a", level(above=5)), Gate("b", level(below=40))))
    )
    steps = [step["step"] for step in dataset.funnel]
    assert steps == ["all", "clips", "facts", "text", "a", "b", "split"]
    left = [step["left"] for step in dataset.funnel]
    assert left == sorted(left, reverse=True)
    assert left[0] == CLIPS
    assert left[-1] == dataset.counts["kept"]


def test_a_gate_with_the_name_of_a_stage_counts_its_own_drops(wh: Warehouse) -> None:
    dataset = select(wh, FPS, Policy("same", 1, (Gate("facts", level(below=40)),)))
    first, second = (step for step in dataset.funnel if step["step"] == "facts")
    assert first["dropped"] > 0
    assert second["dropped"] == [m["reason"] for m in members(dataset).values()].count("facts") > 0


def test_unfinished_stages_drop_clips_as_waiting(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 6))
    fps = fingerprints([Facts()])
    plan(wh, Facts(), fps)
    assert {row["reason"] for row in members(select(wh, fps, ALL)).values()} == {"facts: waiting"}
    run_once(wh, [Facts()])
    assert select(wh, fps, ALL).counts["kept"] == 6


GATE = 'name = "x"\nversion = 1\n[[gate]]\nname = "g"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1 = 2", "not valid"),
        ('name = "x"', "version: Field required"),
        ('name = "x"\nversion = 1\nnonsense = 3', "nonsense: unknown key"),
        ('name = "x"\nversion = 1\n[splits]\nval = 0.6\ntest = 0.6', "less than 1"),
        ('name = "x"\nversion = 1\n[splits]\nval = 2', "splits.val|val: .*less than or equal to 1"),
        (GATE + 'keep = [{ column = "no_such_fact", above = 1 }]', "gate g: .*column no_such_fact"),
        (GATE + 'keep = [{ column = "facts.reason", equals = "x" }]', "gate g: .*facts.reason"),
        (GATE + 'keep = "level > 3"', "gate g: keep: .*tuple"),
        (GATE + "keep = []", "gate g: keep: .*at least 1"),
        (GATE + 'keep = [{ column = "level" }]', "gate g: keep: 0: a column is compared by"),
        (GATE + 'keep = [{ column = "level", above = "3" }]', "gate g: keep: 0: above: .*number"),
        (GATE + 'keep = [{ column = "level", above = nan }]', "gate g: keep: 0: above: .*finite"),
        (GATE + 'keep = [{ column = "level", over = 3 }]', "gate g: keep: 0: over: unknown key"),
        (GATE + 'keep = [{ column = "level", equals = "x" }]', "gate g: .*numbers.*with text"),
        (GATE + 'keep = [{ any = [], column = "level" }]', "gate g: keep: 0: any: .*at least 1"),
        (GATE + "keep = [{ above = 3 }]", "gate g: keep: 0: a condition has a `column`"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_clear_line_with_its_file_and_gate(
    wh: Warehouse, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(FoleyError, match=message) as error:
        select(wh, FPS, str(path))
    assert str(error.value).startswith(f"policy {path}")
    assert "\n" not in str(error.value)


def test_a_policy_holds_no_sql(wh: Warehouse, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen.csv"
    column = f"level\" > 0) then 'a' end; copy facts to '{stolen}'; select (case when (\"level"
    with pytest.raises(FoleyError, match="gate g: no stage gives the column"):
        select(wh, FPS, Policy("p", 1, (Gate("g", (Condition(column, above=0),)),)))
    optional = Policy("p", 1, (Gate("it's", (Condition(column, above=0),)),), optional=(column,))
    assert select(wh, FPS, optional).counts["kept"] == 0
    text = Policy("t", 1, (Gate("g", (Condition("level", equals="x' or true or 'x"),)),))
    with pytest.raises(FoleyError, match="compared with text"):
        select(wh, FPS, text)
    assert not stolen.exists()


def test_unknown_policies_and_datasets_are_clear_errors(wh: Warehouse, tmp_path: Path) -> None:
    for unknown in ("nothing", str(tmp_path / "absent.toml")):
        with pytest.raises(FoleyError):
            load_policy(unknown)
    with pytest.raises(FoleyError, match="nothing"):
        wh.dataset("nothing")
    with pytest.raises(FoleyError, match="a/b"):
        select(wh, FPS, ALL, name="a/b")
