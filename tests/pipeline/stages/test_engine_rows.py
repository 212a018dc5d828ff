"""What a batch's rows say of each clip, and what a fingerprint stands for."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.stages.engine import Split, describe, fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Rejected, Stage
from tests.warehouse.toys import Facts, Text, Tokens, make_files, run_all, run_once
from warehouse import FoleyError, Warehouse, array_field, field
from warehouse.rows.live import input_of

CLIPS = 6


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "home")
    warehouse.ingest(make_files(tmp_path / "media", CLIPS))
    return warehouse


class Plain(Stage):
    """One number a clip."""

    name, batch_size = "plain", CLIPS
    reads = ("sha256",)
    schema = pa.schema([field("n", pa.int64(), "a number")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed({"n": int(clip["clip_id"][4:])}) for clip in clips]


def rows_of(wh: Warehouse, stage: Stage) -> list[dict[str, Any]]:
    return wh.rows(stage.name, fingerprints([stage])[stage.name], None).to_pylist()


@pytest.mark.parametrize("given", [0, CLIPS - 1, CLIPS + 1])
def test_a_stage_of_fewer_or_more_outcomes_than_clips_passes_none(
    wh: Warehouse, given: int
) -> None:
    class Miscounting(Plain):
        name = "miscounting"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            return [Passed({"n": i}) for i in range(given)]

    (result,) = run_once(wh, [Miscounting()])
    assert (result.passed, result.rejected, result.failed) == (0, 0, CLIPS)
    for row in rows_of(wh, Miscounting()):
        assert (row["status"], row["error"]) == ("failed", "OutcomeError")
        assert row["message"] == f"stage miscounting gave {given} outcomes for {CLIPS} clips"


def test_outcomes_belong_to_their_clips_and_are_counted(wh: Warehouse) -> None:
    class Mixed(Plain):
        name = "mixed"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            own: list[Outcome] = [
                Passed({"n": 0}),
                Rejected("odd", {"n": 1}),
                Rejected("bare", {}),
                Failed("Broken", "why"),
                Passed({"n": 4}),
                Passed({"n": None}),
            ]
            return [own[int(clip["clip_id"][4:])] for clip in clips]

    (result,) = run_once(wh, [Mixed()])
    assert (result.passed, result.rejected, result.failed) == (3, 2, 1)
    assert result.seconds > 0
    told = [
        tuple(row[name] for name in ("status", "reason", "error", "message", "n", "attempt"))
        for row in rows_of(wh, Mixed())
    ]
    assert told == [
        ("passed", None, None, None, 0, 1),
        ("rejected", "odd", None, None, 1, 1),
        ("rejected", "bare", None, None, None, 1),
        ("failed", None, "Broken", "why", None, 1),
        ("passed", None, None, None, 4, 1),
        ("passed", None, None, None, None, 1),
    ]
    assert result.commit is not None
    columns = ["seconds", "commit", "input", "generation"]
    spine = wh.rows("mixed", fingerprints([Mixed()])["mixed"], None, columns).to_pylist()
    assert sum(row["seconds"] for row in spine) == pytest.approx(result.seconds, rel=1e-5)
    assert {row["commit"] for row in spine} == {result.commit.name.split("-")[0]}
    clips = wh.clips().to_pylist()
    assert [row["input"] for row in spine] == [input_of(clip, ["sha256"]) for clip in clips]
    assert {row["generation"] for row in spine} == {0}


@pytest.mark.parametrize("harm", ["size", "time", "none", "gone"])
def test_a_file_is_another_by_its_size_or_its_time(wh: Warehouse, harm: str) -> None:
    """Same size and another time: a video that was encoded again may well have the same size."""
    fps = fingerprints([Plain()])
    work = plan(wh, Plain(), fps)
    path = Path(wh.clips().to_pylist()[2]["path"])
    stat = path.stat()
    if harm == "size":
        path.write_bytes(path.read_bytes() + b"!")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif harm == "time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif harm == "gone":
        path.unlink()  # what a stage that needs it says of itself
    result = run_batch(wh, Plain(), work, work.batches[0])
    assert result.failed == (1 if harm in ("size", "time") else 0)
    errors = [row["error"] for row in rows_of(wh, Plain())]
    assert errors[2] == ("SourceChanged" if result.failed else None)


def test_a_stage_that_does_not_read_the_file_does_not_care(wh: Warehouse) -> None:
    work = plan(wh, Text(), fingerprints([Text()]))
    os.utime(wh.clips().to_pylist()[2]["path"])
    assert run_batch(wh, Text(), work, work.batches[0]).failed == 0


class Doubled(Plain):
    name = "plain"
    schema = pa.schema([field("n", pa.int64(), "a number"), field("m", pa.int64(), "another")])


class Wider(Plain):
    schema = pa.schema([field("n", pa.float64(), "a number")])


class Renamed(Plain):
    schema = pa.schema([field("k", pa.int64(), "a number")])


class Described(Plain):
    schema = pa.schema([field("n", pa.int64(), "the same number in other words")])


class Reader(Plain):
    reads = ("sha256", "prompt")


class Swapped(Plain):
    reads = ("prompt", "sha256")


class Blind(Plain):
    reads = ()


class Arrays(Plain):
    schema = pa.schema([array_field("n", "float16", (-1, 2), "numbers")])


def test_fingerprints_depend_on_names_and_types_of_columns_and_on_what_is_read() -> None:
    of = {kind: fingerprints([kind()])["plain"] for kind in (Plain, Doubled, Wider, Renamed)}
    of |= {kind: fingerprints([kind()])["plain"] for kind in (Reader, Blind, Arrays)}
    assert len(set(of.values())) == len(of)
    assert fingerprints([Described()])["plain"] == of[Plain]
    assert fingerprints([Swapped()])["plain"] == of[Reader]


def test_a_fingerprint_says_what_it_stands_for(wh: Warehouse) -> None:
    stages = [Facts(), Text(), Tokens()]
    fps = fingerprints(stages)
    made = [describe(wh, stage, fps) for stage in stages]
    assert [descriptor.reads for descriptor in made] == [["sha256"], ["prompt"], ["sha256"]]
    assert made[0].settings == {"gain": 1.0}
    assert made[0].doc == "Facts of the file."
    assert made[2].upstream == {"facts": fps["facts"]}
    assert wh.descriptor("tokens", fps["tokens"]) == made[2]
    assert made[2].columns.names == ["tokens", "n_tokens"]

    class Heir(Plain):
        name, upstream, reads = "heir", ("text",), ()

    assert describe(wh, Heir(), fingerprints([*stages, Heir()])).reads == ["prompt"]


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        (Split(), [6]),
        (Split(batch_size=4), [4, 2]),
        (Split(batch_size=1), [1] * 6),
        (Split(parallel_batches=2), [3, 3]),
        (Split(parallel_batches=4), [2, 2, 2]),
        (Split(parallel_batches=100), [1] * 6),
        (Split(batch_size=5, parallel_batches=6), [5, 1]),
    ],
)
def test_batches_are_in_order_and_leave_no_worker_idle(
    wh: Warehouse, split: Split, sizes: list[int]
) -> None:
    work = plan(wh, Plain(), fingerprints([Plain()]), split=split)
    assert [len(batch) for batch in work.batches] == sizes
    ids = [clip for batch in work.batches for clip in batch.clip_ids]
    assert ids == sorted(ids)
    assert (work.todo, work.header().todo, work.done) == (CLIPS, 0, 0)
    assert work.header().fingerprint == work.fingerprint


def test_a_failed_clip_is_tried_as_often_as_is_asked(wh: Warehouse) -> None:
    class Failing(Plain):
        name = "failing"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            return [Failed("Broken", "always") for _ in clips]

    fps = fingerprints([Failing()])
    todo: list[int] = []
    for _ in range(4):
        work = plan(wh, Failing(), fps, split=Split(max_attempts=2))
        todo.append(work.todo)
        for batch in work.batches:
            run_batch(wh, Failing(), work, batch)
    assert todo == [6, 6, 0, 0]
    work = plan(wh, Failing(), fps, split=Split(max_attempts=2))
    assert (work.quarantined, work.done, work.waiting) == (6, 0, 0)
    rows = wh.rows("failing", fps["failing"], None, ["attempt", "generation"]).to_pylist()
    assert {(row["attempt"], row["generation"]) for row in rows} == {(2, 1)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_the_machines_faults_are_no_clips(wh: Warehouse, number: int) -> None:
    class Unlucky(Plain):
        name = "unlucky"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            raise OSError(number, os.strerror(number))

    with pytest.raises(FoleyError, match="stage unlucky cannot go on: " + os.strerror(number)):
        run_once(wh, [Unlucky()])
    assert plan(wh, Unlucky(), fingerprints([Unlucky()])).todo == CLIPS


def test_other_errors_of_the_system_are_the_clips(wh: Warehouse) -> None:
    class Lost(Plain):
        name = "lost"

        def process(self, clips: Sequence[Clip]) -> list[Outcome]:
            if any(clip["clip_id"] == "clip0003" for clip in clips):
                raise FileNotFoundError(errno.ENOENT, "gone", "file")
            return super().process(clips)

    run_once(wh, [Lost()])
    errors = [row["error"] for row in rows_of(wh, Lost())]
    assert errors == [None, None, None, "FileNotFoundError", None, None]


def test_a_setup_that_fails_is_tried_again(wh: Warehouse) -> None:
    class Loading(Plain):
        name, tries = "loading", 0

        def setup(self) -> None:
            self.tries += 1
            if self.tries == 1:
                raise FoleyError("no weights")

    stage = Loading()
    with pytest.raises(FoleyError, match="no weights"):
        run_once(wh, [stage])
    (result,) = run_once(wh, [stage])
    assert (stage.tries, result.passed) == (2, CLIPS)


def test_a_batch_whose_clips_are_all_gone_commits_nothing(wh: Warehouse) -> None:
    work = plan(wh, Plain(), fingerprints([Plain()]))
    folder = Path(wh.clips().to_pylist()[0]["path"]).parent
    for path in folder.iterdir():
        path.write_bytes(b"all of them are others")
    wh.ingest(wh.clips())
    result = run_batch(wh, Plain(), work, work.batches[0])
    assert (result.passed, result.rejected, result.failed, result.commit) == (0, 0, 0, None)
    assert rows_of(wh, Plain()) == []
    shutil.rmtree(folder)
    run_all(wh, [Plain()])
    assert len(rows_of(wh, Plain())) == CLIPS
