"""Whatever happens in whatever order, every clip ends with one live row a stage, the right one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.stages.engine import Batch, Plan, fingerprints, plan, run_batch
from pipeline.stages.stage import Stage
from tests.warehouse.toys import Facts, Gain, Text, Tokens, length, run_all
from warehouse import Warehouse, compact, gc, release

CLIPS = st.integers(0, 11)
BYTES = st.sampled_from([0, 1, 7, 8, 9])


@cache
def other_process() -> ProcessPoolExecutor:
    """A second process, which ends with this one."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def make_pipeline(gain: float) -> list[Stage]:
    """The toy stages in small batches."""
    stages: list[Stage] = [Facts(Gain(gain)), Tokens(), Text()]
    for stage in stages:
        stage.batch_size = 3
    return stages


def once(home: Path, gain: float, tidy: bool) -> None:
    """Plan and run every stage once, and compact in between if asked to."""
    wh = Warehouse(home)
    for stage in make_pipeline(gain):
        run_all_of(wh, stage, gain)
        if tidy:
            compact(wh, at_least=2)


def run_all_of(wh: Warehouse, stage: Stage, gain: float) -> None:
    """Plan a stage and run all its batches."""
    planned = plan(wh, stage, fingerprints(make_pipeline(gain)))
    for batch in planned.batches:
        run_batch(wh, stage, planned, batch)


class Engine(RuleBasedStateMachine):
    """Two warehouses that share a home, and at times a second process.

    They work on clips that change underneath.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.workers = [Warehouse(self.folder / "home") for _ in range(2)]
        self.clips: dict[str, tuple[int, str]] = {}
        self.gain = 1.0
        self.stale: list[tuple[Stage, Plan, Batch]] = []
        #: Stage, fingerprint, clip and its byte or prompt of what was once seen passed or rejected.
        self.finished: set[tuple[str, str, str, int | str]] = set()

    def teardown(self) -> None:
        """Finish the work and look at every row."""
        if self.clips:
            run_all(self.workers[0], self.pipeline())
            self.check(complete=True)
        shutil.rmtree(self.folder)

    def pipeline(self) -> list[Stage]:
        return make_pipeline(self.gain)

    @initialize(byte=BYTES)
    def begin(self, byte: int) -> None:
        self.put(0, byte, "p")

    @rule(number=CLIPS, byte=BYTES, prompt=st.sampled_from(["", "p", "pp"]))
    def put(self, number: int, byte: int, prompt: str) -> None:
        """A clip arrives, or its file or prompt is replaced."""
        path = self.folder / f"{number}.bin"
        aside = self.folder / "aside"
        aside.write_bytes(bytes([byte]))
        aside.replace(path)
        self.clips[f"clip{number:02d}"] = (byte, prompt)
        rows = [
            {"clip_id": f"clip{number:02d}", "path": str(path), "source": "s", "prompt": prompt}
        ]
        self.workers[0].ingest(pa.Table.from_pylist(rows))

    @rule(gain=st.sampled_from([1.0, 2.0]))
    def set(self, gain: float) -> None:
        """The settings change, or go back."""
        self.gain = gain

    @rule(
        worker=st.integers(0, 1),
        which=st.integers(0, 2),
        order=st.integers(0, 99),
        share=st.floats(0, 1),
    )
    def work(self, worker: int, which: int, order: int, share: float) -> None:
        """Plan a stage and run some of its batches in some order.

        Keep one for later, when it is out of date.
        """
        wh, stages = self.workers[worker], self.pipeline()
        fps = fingerprints(stages)
        for stage in stages[:which]:
            plan(wh, stage, fps)
        planned = plan(wh, stages[which], fps)
        batches = random.Random(order).sample(planned.batches, len(planned.batches))
        chosen = batches[: round(share * len(batches))]
        for batch in chosen:
            run_batch(wh, stages[which], planned, batch)
        name = stages[which].name
        found = wh.rows(name, fps[name], None, ["status"])["clip_id"].to_pylist()
        assert {clip for batch in chosen for clip in batch.clip_ids} <= set(found)
        if batches:
            self.stale = [*self.stale[-2:], (stages[which], planned.header(), batches[-1])]

    @rule(worker=st.integers(0, 1))
    def replay(self, worker: int) -> None:
        """A batch that was planned long ago is run (again) by any process."""
        if self.stale:
            stage, planned, batch = self.stale[0]
            run_batch(self.workers[worker], stage, planned, batch)

    @rule(gain=st.sampled_from([1.0, 2.0]), tidy=st.booleans())
    def race(self, gain: float, tidy: bool) -> None:
        """Another process does the same work, or that of other settings, at the same time."""
        theirs = other_process().submit(once, self.folder / "home", gain, tidy)
        once(self.folder / "home", self.gain, not tidy)
        theirs.result(timeout=120)

    @rule(worker=st.integers(0, 1))
    def tidy(self, worker: int) -> None:
        compact(self.workers[worker], at_least=2)
        gc(self.workers[worker], dry_run=False)

    @rule()
    def let_go(self) -> None:
        if self.workers[0].current("facts"):
            release(self.workers[0], "facts")

    @rule(which=st.integers(0, 99), gone=st.booleans())
    def lose(self, which: int, gone: bool) -> None:
        """A commit of a stage is truncated or lost.

        (Draws never depend on files: a race decides what there is.)
        """
        files = sorted(path for path in self.folder.glob("home/commits/t*/*/*.parquet"))
        if files:
            self.finished.clear()
            victim = files[which % len(files)]
            if gone:
                victim.unlink()
            else:
                os.truncate(victim, victim.stat().st_size // 2)

    @invariant()
    def one_row_each(self) -> None:
        if self.clips:
            self.check(complete=False)

    def check(self, complete: bool) -> None:
        """Every clip has at most one live row a stage, and it holds the right values.

        Exactly one when complete. What was once finished stays so, for as long as the clip is what
        it was then, or when it is so again.
        """
        wh, stages = self.workers[1], self.pipeline()
        fps = fingerprints(stages)
        known = [
            s for s in stages if (wh.commits_folder(s.name, fps[s.name]) / "stage.json").exists()
        ]
        for stage in known:
            rows = wh.rows(stage.name, fps[stage.name], None).to_pylist()
            ids = [row["clip_id"] for row in rows]
            assert len(ids) == len(set(ids))
            for row in rows:
                self.check_row(stage.name, row)
            finished = {row["clip_id"] for row in rows if row["status"] in ("passed", "rejected")}
            for clip, (byte, prompt) in self.clips.items():
                what = (stage.name, fps[stage.name], clip, prompt if stage.name == "text" else byte)
                assert clip in finished or what not in self.finished, what
                self.finished |= {what} if clip in finished else set()
            if complete:
                assert set(ids) == self.expected(stage.name)
                assert plan(wh, stage, fps).todo == 0

    def expected(self, stage: str) -> set[str]:
        if stage != "tokens":
            return set(self.clips)
        return {clip for clip, (byte, _) in self.clips.items() if byte % 10 < 7}

    def check_row(self, stage: str, row: dict[str, Any]) -> None:
        byte, prompt = self.clips[row["clip_id"]]
        if stage == "text":
            assert row["n_letters"] == len(prompt)
        elif stage == "tokens":
            assert row["n_tokens"] == length(byte * self.gain)
        elif row["status"] != "released":
            kinds = {7: "failed", 8: "failed", 9: "rejected"}
            assert row["status"] == kinds.get(byte % 10, "passed")
            assert row["level"] == (None if byte % 10 in (7, 8) else byte * self.gain)


TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=(
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ),
)
