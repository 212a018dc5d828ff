"""The engine does each clip once, and verifies what it counts as done.

Failures are charged to the guilty.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Stage
from tests.warehouse.toys import Facts, Gain, Text, Tokens, make_files, run_all, run_once, stages
from warehouse import FoleyError, Warehouse, field, release


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", 30))
    return warehouse


def statuses(wh: Warehouse, stage: Stage, fps: dict[str, str]) -> dict[str, str]:
    rows = wh.rows(stage.name, fps[stage.name], None)
    return dict(zip(rows["clip_id"].to_pylist(), rows["status"].to_pylist(), strict=True))


def test_every_clip_gets_one_row_and_only_the_guilty_fail(wh: Warehouse) -> None:
    run_once(wh, [Facts()])
    found = statuses(wh, Facts(), fingerprints([Facts()]))
    expected = {7: "failed", 8: "failed", 9: "rejected"}
    assert found == {f"clip{i:04d}": expected.get(i % 10, "passed") for i in range(30)}


def test_a_second_run_does_nothing(wh: Warehouse) -> None:
    run_all(wh, stages())
    assert run_once(wh, stages()) == []


def test_failed_clips_are_tried_three_times_then_quarantined_until_released(wh: Warehouse) -> None:
    fps = fingerprints([Facts()])
    todo = []
    for _ in range(5):
        todo.append(plan(wh, Facts(), fps).todo)
        run_once(wh, [Facts()])
    assert todo == [30, 6, 6, 0, 0]
    assert plan(wh, Facts(), fps).quarantined == 6
    assert release(wh, "facts", "Broken: %") == 3
    again = plan(wh, Facts(), fps)
    assert (again.todo, again.quarantined) == (3, 3)
    assert release(wh, "facts") == 3


def test_another_setting_redoes_all_and_going_back_finds_the_old_rows(wh: Warehouse) -> None:
    run_all(wh, stages(1.0))
    run_all(wh, stages(2.0))
    level = wh.rows("facts", fingerprints(stages(2.0))["facts"])["level"].to_pylist()
    assert level == [2.0 * (i % 50) for i in range(30) if i % 10 < 7]
    assert run_once(wh, stages(1.0)) == []
    assert wh.current("facts") == fingerprints(stages(1.0))["facts"]


def test_a_replaced_file_is_done_again_and_nothing_else(wh: Warehouse, tmp_path: Path) -> None:
    run_all(wh, stages())
    (tmp_path / "media" / "0003.bin").write_bytes(b"another" + bytes([16]))
    result = wh.ingest(make_files_table(tmp_path))
    assert (result.new, result.changed, result.unchanged) == (0, 1, 29)
    fps = fingerprints(stages())
    assert plan(wh, stages()[0], fps).batches[0].clip_ids == ("clip0003",)
    assert plan(wh, stages()[2], fps).todo == 0, "text depends on the prompt only"
    run_all(wh, stages())
    assert wh.rows("tokens", fps["tokens"], clip_ids=["clip0003"])["n_tokens"].to_pylist() == [2]


def make_files_table(tmp_path: Path) -> pa.Table:
    """The clips of the fixture without writing the files anew."""
    rows = make_files(tmp_path / "copy", 30).to_pylist()
    return pa.Table.from_pylist(
        [{**r, "path": r["path"].replace("/copy/", "/media/")} for r in rows]
    )


def test_a_changed_prompt_concerns_the_text_stage_only(wh: Warehouse, tmp_path: Path) -> None:
    run_all(wh, stages())
    rows = make_files_table(tmp_path).to_pylist()
    rows[4]["prompt"] = "a longer prompt"
    wh.ingest(pa.Table.from_pylist(rows))
    fps = fingerprints(stages())
    assert [plan(wh, stage, fps).todo for stage in stages()] == [0, 0, 1]


@pytest.mark.parametrize("harm", ["missing", "truncated", "garbage"])
def test_a_damaged_commit_is_not_done(wh: Warehouse, harm: str) -> None:
    run_all(wh, stages())
    fps = fingerprints(stages())
    before = wh.rows("tokens", fps["tokens"])
    victim = wh.listing("tokens", fps["tokens"]).good[1]
    if harm == "missing":
        victim.path.unlink()
    elif harm == "truncated":
        os.truncate(victim.path, victim.bytes // 2)
    else:
        victim.path.write_bytes(os.urandom(victim.bytes))
    work = plan(wh, Tokens(), fps)
    assert work.todo == victim.rows
    assert (wh.home / "damaged").exists() == (harm != "missing")
    run_all(wh, stages())
    assert wh.rows("tokens", fps["tokens"]).equals(before)


def test_a_stage_waits_for_all_its_upstreams(wh: Warehouse) -> None:
    class Both(Stage):
        name, upstream, batch_size = "both", ("facts", "text"), 100
        schema = pa.schema([field("both", pa.float64(), "level times letters")])

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            return [Passed({"both": c["level"] * c["n_letters"]}) for c in clips]

    pipeline = [Facts(), Text(), Both()]
    fps = fingerprints(pipeline)
    plan(wh, pipeline[1], fps)
    run_once(wh, pipeline[:1])
    work = plan(wh, pipeline[2], fps)
    assert (work.todo, work.waiting) == (0, 30)
    run_once(wh, pipeline)
    both = wh.rows("both", fps["both"])["both"].to_pylist()
    assert both == [i * (i % 7) for i in range(30) if i % 10 < 7]


def test_a_replay_of_a_batch_lands_on_the_same_commit_and_counts_once(wh: Warehouse) -> None:
    stage, fps = Facts(), fingerprints([Facts()])
    work = plan(wh, stage, fps)
    first = run_batch(wh, stage, work, work.batches[0])
    second = run_batch(wh, stage, work.header(), pickle.loads(pickle.dumps(work.batches[0])))
    assert first.commit is not None
    assert second.commit is not None
    assert first.commit.name.split("-")[0] == second.commit.name.split("-")[0]
    assert wh.rows("facts", fps["facts"], None).num_rows == len(work.batches[0])


def test_a_file_replaced_after_planning_gets_no_row_for_what_it_was(
    wh: Warehouse, tmp_path: Path
) -> None:
    stage, fps = Facts(), fingerprints([Facts()])
    work = plan(wh, stage, fps)
    (tmp_path / "media" / "0001.bin").write_bytes(b"unannounced" + bytes([2]))
    assert run_batch(wh, stage, work, work.batches[0]).failed == 1
    assert wh.rows("facts", fps["facts"], "failed")["error"].to_pylist() == ["SourceChanged"]
    (tmp_path / "media" / "0006.bin").write_bytes(b"announced" + bytes([3]))
    wh.ingest(make_files_table(tmp_path))
    result = run_batch(wh, stage, work, work.batches[1])
    assert result.passed + result.rejected + result.failed == len(work.batches[1]) - 1
    run_all(wh, [stage])
    assert wh.rows("facts", fps["facts"], clip_ids=["clip0001", "clip0006"])[
        "level"
    ].to_pylist() == [2.0, 3.0]


def test_clip_ids_narrow_a_plan(wh: Warehouse) -> None:
    fps = fingerprints([Facts()])
    work = plan(wh, Facts(), fps, clip_ids=["clip0001", "clip0002", "absent"])
    assert [b.clip_ids for b in work.batches] == [("clip0001", "clip0002")]


def test_columns_that_are_not_the_stages_own_are_a_failure_of_the_clip(wh: Warehouse) -> None:
    class Wrong(Facts):
        name = "wrong"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            odd = {"clip0000": {"level": "loud", "together": 1}, "clip0001": {"level": 1.0}}
            return [Passed(odd.get(c["clip_id"], {"level": 1.0, "together": 1})) for c in clips]

    fps = fingerprints([Wrong()])
    run_once(wh, [Wrong()])
    failed = wh.rows("wrong", fps["wrong"], "failed")
    assert failed["clip_id"].to_pylist() == ["clip0000", "clip0001"]
    assert set(failed["error"].to_pylist()) == {"ColumnError"}


def test_what_no_clip_is_to_blame_for_stops_the_run_and_commits_nothing(wh: Warehouse) -> None:
    class Full(Facts):
        name = "full"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            with open("/dev/full", "wb", buffering=0) as handle:
                handle.write(b"x")
            return [Failed("never", "reached")]

    fps = fingerprints([Full()])
    with pytest.raises(FoleyError, match="No space left"):
        run_once(wh, [Full()])
    assert plan(wh, Full(), fps).todo == 30


def test_fingerprints_depend_on_settings_version_columns_weights_and_upstreams() -> None:
    @dataclass(frozen=True)
    class Weights(Gain):
        path: str = "a"

    class Model(Facts):
        revision = "1"

        @property
        def model_revision(self) -> str:
            return self.revision

    class Newer(Facts):
        version = 2

    class Later(Model):
        revision = "2"

    variants = [Facts(), Facts(Gain(2.0)), Facts(Weights()), Newer(), Model(), Later()]
    found = [fingerprints([stage, Tokens()]) for stage in variants]
    assert (
        len({fps["facts"] for fps in found})
        == len({fps["tokens"] for fps in found})
        == len(variants)
    )
    assert fingerprints([Facts(), Tokens()]) == found[0]


@pytest.mark.parametrize("pipeline", [[Tokens()], [Facts(), Facts()]])
def test_stages_out_of_order_or_of_the_same_name_are_a_clear_error(pipeline: list[Stage]) -> None:
    with pytest.raises(FoleyError):
        fingerprints(pipeline)
