"""Damage, kills, versions and gc in any order: what is good stays, and the rest is made again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints, plan
from tests.pipeline.stages.test_engine_properties import Engine, make_pipeline, once
from tests.warehouse.toys import POLICY, run_all
from warehouse import Warehouse, compact, gc, query, verify
from warehouse.maintenance import repair


def choose(wh: Warehouse, gain: float) -> Any:
    return select(wh, fingerprints(make_pipeline(gain)), POLICY)


SERVER: Any = multiprocessing.get_context("forkserver")  # forks a process that has no threads
SERVER.set_forkserver_preload([__name__])
FINAL = ("replace", "rename", "unlink", "link", "fsync")  # what makes a difference on the disk
JOBS = {
    "work": lambda wh, gain: once(wh.home, gain, tidy=False),
    "compact": lambda wh, _: compact(wh, at_least=2),
    "gc": lambda wh, _: gc(wh, dry_run=False, unused=True),
    "select": choose,
    "publish": lambda wh, _: wh.publish(),
    "repair": lambda wh, _: repair(wh),
}


def die(home: Path, job: str, gain: float, steps: int) -> None:
    """Do a job, but kill this process before the disk is changed for the so manyth time."""
    left = [steps]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in FINAL:
        setattr(os, name, counted(getattr(os, name)))
    JOBS[job](Warehouse(home), gain)


class Healing(Engine):
    """The engine's machine, with processes that die, bits that flip, versions and publications."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, tuple[float, Any]] = {}

    def forget_unused(self) -> None:
        """gc removed all of them that none of our processes planned."""
        held = {folder.name for wh in self.workers for folder in wh._plans}
        self.finished = {what for what in self.finished if what[1] in held}

    def restart(self) -> None:
        """New processes, which have looked at no file and planned nothing."""
        self.workers = [Warehouse(self.folder / "home") for _ in range(2)]
        self.stale = []

    @rule(job=st.sampled_from(list(JOBS)), steps=st.integers(1, 25))
    def kill(self, job: str, steps: int) -> None:
        """Another process is killed in the middle of something."""
        once(self.folder / "home", self.gain, tidy=False)
        process = SERVER.Process(target=die, args=(self.folder / "home", job, self.gain, steps))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if job == "gc":
            self.forget_unused()

    @rule(which=st.integers(0, 99), place=st.integers(0, 10**6), bit=st.integers(0, 7))
    def flip(self, which: int, place: int, bit: int) -> None:
        """A bit of a commit flips, of clips too, which the next curation ingests again."""
        files = sorted(self.folder.glob("home/commits/*/*/*.parquet"))
        victim = files[which % len(files)]
        raw = bytearray(victim.read_bytes())
        raw[place % len(raw)] ^= 1 << bit
        victim.write_bytes(raw)
        self.restart()
        self.finished.clear()
        for clip, (byte, prompt) in list(self.clips.items()):
            self.put(int(clip[4:]), byte, prompt)

    @rule()
    def version(self) -> None:
        """A dataset version is selected once all is done: another one for other members alone."""
        wh = self.workers[0]
        run_all(wh, self.pipeline())
        dataset = choose(wh, self.gain)
        members = dataset.members(kept=None)
        kept = {c for c, (byte, prompt) in self.clips.items() if byte < 7 and prompt}
        assert set(dataset.clip_ids()) == kept
        for version, (gain, known) in self.versions.items():
            same = gain == self.gain and known.equals(members)
            assert same == (version == dataset.version)
        self.versions[dataset.version] = (self.gain, members)

    @rule()
    def publish(self) -> None:
        """The catalog, grown from the one before, shows what the commits hold."""
        wh = self.workers[1]
        wh.publish()
        shown = query(wh.home, "select count(*) as n from clips").to_pylist()
        assert shown == [{"n": len(self.clips)}]
        for stage, descriptor in wh.stages().items():
            live = wh.rows(stage, descriptor.fingerprint, None, ["status", "attempt"])
            sql = f"select clip_id, status, attempt from {stage} order by clip_id"
            assert query(wh.home, sql).to_pylist() == live.to_pylist()

    @rule()
    def sweep(self) -> None:
        """Others plan other settings, gc runs, and what we planned long ago goes on."""
        other = Warehouse(self.folder / "home")
        for stage in make_pipeline(3.0):
            plan(other, stage, fingerprints(make_pipeline(3.0)))
        gc(Warehouse(self.folder / "home"), dry_run=False, unused=True)
        self.forget_unused()
        self.replay(0)

    def teardown(self) -> None:
        """Finish the work, and look at every version, every row and every file."""
        if self.clips:
            repair(Warehouse(self.folder / "home"))
            self.restart()
            for version, (_, members) in self.versions.items():
                assert self.workers[0].dataset(version).members(kept=None).equals(members)
            self.version()
            self.publish()
            self.put(11, 1, "last")  # a publication that grows by the newest commits alone
            self.version()
            self.publish()
            self.tidy(1)
            self.one_row_each()
            self.version()
            assert verify(self.workers[0]) == []
            gc(self.workers[0], dry_run=False)
            assert list(self.workers[0].tmp.iterdir()) == []
        super().teardown()


TestHealing = pytest.mark.slow(Healing.TestCase)
TestHealing.settings = settings(
    max_examples=2,  # each ends with all that matters: see teardown
    stateful_step_count=10,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # making it short takes minutes
    deadline=None,
    suppress_health_check=(
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ),
)
