"""Three nights of a factory as an operator has it, in one play: about five minutes, mostly waiting.

Schedules fire them, clips come between, the server starts anew, a night's run and worker are
killed, a source is lost; a browser looks. Stages with a model run in the pool of GPUs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from flows.server.server import GPU_POOL, Serving
from pipeline.procedural import sample_clip, write_clip
from tests.benchmarks.figures import Figure, figure
from tests.browser import browser_page, picture
from tests.operations.conftest import Told
from tests.operations.factory import IMPATIENT, Factory, foley, free_port, until
from tests.operations.test_browser import field, open_form, submit
from warehouse import Dataset, Warehouse, query
from warehouse.commits import listing
from warehouse.datasets.corpus import choose_dataset
from warehouse.datasets.versions import page_of

_POLICY = """
name = "{name}"
version = 1
[[gate]]
name = "short"
keep = [{{ column = "duration", below = {below} }}]
[splits]
val = 0.3
test = 0.3
"""
_SCORES = [f"scores.{name}=false" for name in ("audiobox", "sync")]


@dataclass(frozen=True)
class _Play:
    """A factory without a worker for GPUs, one on another machine as it were, and ten clips."""

    folder: Path
    factory: Factory
    told: Told
    page: Page

    @property
    def home(self) -> Path:
        return self.factory.home

    def copy(self, source: str, *numbers: int) -> Path:
        """Clips that come into a source's folder; from 8 on they take two seconds."""
        (self.folder / source).mkdir(exist_ok=True)
        for number in numbers:
            clip = sample_clip(number, 1.0 if number < 8 else 2.0)
            write_clip(clip, self.folder / source / f"clip {number}.mp4")
        return self.folder / source

    def policy(self, name: str, below: float) -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(_POLICY.format(name=name, below=below))
        return str(path)

    def scheduled(self, **parameters: Any) -> str:
        """Id of the run that a schedule starts, begun: it is due so often until one has."""
        deployment = self.factory.deployment("curate")["id"]
        begin = datetime.now(UTC) + timedelta(seconds=20)
        due = f"DTSTART:{begin:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY;COUNT=5"
        made: dict[str, Any] = {"schedule": {"rrule": due, "timezone": "UTC"}, "active": True}
        made["parameters"] = {"parameters": parameters}
        schedules = f"/deployments/{deployment}/schedules"
        begun = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
        chosen = {"flow_runs": begun | {"deployment_id": {"any_": [deployment]}}}
        [schedule] = self.factory.ask(schedules, "POST", [made])
        [run, *_] = until(
            lambda: self.factory.ask("/flow_runs/filter", "POST", chosen), 300, "a scheduled run"
        )
        self.factory.ask(f"{schedules}/{schedule['id']}", "DELETE")
        assert run["auto_scheduled"]
        return str(run["id"])

    def looked_at(self, id: str, ended: str) -> None:
        """A run's page in the UI, by its name and state."""
        self.page.goto(f"{self.factory.address}/v2/runs/flow-run/{id}")
        expect(self.page.get_by_text(ended, exact=True).first).to_be_visible()
        expect(self.page.get_by_text(self.factory.run(id)["name"]).first).to_be_visible()

    def newest(self) -> Dataset:
        return choose_dataset(Warehouse(self.home))

    def processed(self) -> dict[str, int]:
        """Rows that every stage ever wrote: what was done twice counts twice."""
        rows = query(self.home, "select stage, sum(clips)::int as n from commits group by 1")
        return {row["stage"]: row["n"] for row in rows.to_pylist()}

    def committed(self) -> dict[str, int]:
        """The same out of the names of the commits, whatever was published."""
        counts = Counter[str]()
        for folder in filter(Path.is_dir, self.home.glob("commits/*/*")):
            counts[folder.parent.name] += sum(commit.rows for commit in listing(folder).good)
        return counts


def nights() -> Iterator[Figure]:
    """Seconds of each night from its start to its end; everything else is asserted."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        told = Told()
        factory = Factory(Path(folder, "home"), free_port())
        up = stack.enter_context(_up(factory, told))
        page = stack.enter_context(browser_page(factory.address, asked := []))
        play = _Play(Path(folder), factory, told, page)
        first = yield from _first(play)
        _day(play)
        up.close()
        stack.enter_context(_up(factory, told))  # which deploys again
        assert _schedules(factory) == [("nightly", False), (None, True)]
        second = yield from _second(play, first)
        yield from _third(play, second)
        assert _schedules(factory) == [("nightly", False), (None, True)]
        assert asked == []


@contextmanager
def _up(factory: Factory, told: Told) -> Generator[ExitStack]:
    """`foley up` on a machine without a GPU, and a worker of the other pool; until it is closed."""
    with ExitStack() as stack:
        where = ("--home", factory.home, "--port", str(factory.port), "--webhook", told.url)
        done = foley("up", "--gpus", "0", *where, **IMPATIENT)
        assert done.returncode == 0, done.stderr
        stack.callback(foley, "down", "--home", factory.home)
        command = ["prefect", "worker", "start", "--type", "process", "--pool", GPU_POOL]
        variables = Serving(factory.home, port=factory.port).environment() | IMPATIENT
        with (factory.home / "worker.log").open("a") as log:
            module = [sys.executable, "-m", *command]
            worker = subprocess.Popen(module, env=variables, stdout=log, stderr=log)
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
        yield stack


def _schedules(factory: Factory) -> list[tuple[str | None, bool]]:
    found = factory.deployment("curate")["schedules"]
    return sorted(((s["slug"], s["active"]) for s in found), key=str)


def _ended(play: _Play, night: str, id: str, state: str = "COMPLETED") -> Figure:
    """How long the night took, once it is over and the UI says so."""
    run = play.factory.reaches(id, state)
    play.looked_at(id, state.title())
    return figure(f"{night} night: {run['name']}", run["total_run_time"], "s")


def _first(play: _Play) -> Generator[Figure, None, Dataset]:
    """Source a is curated."""
    added = foley("source", "add", play.copy("a", 0, 1, 2, 9), "--home", play.home, "--name", "a")
    assert added.returncode == 0, added.stderr
    wide = play.policy("wide", 9.0)
    id = play.scheduled(policy=wide, settings=_SCORES)
    yield _ended(play, "first", id)
    assert play.factory.run(id)["name"] == "curate all sources: 4 new"
    assert set(play.processed().values()) == {4}
    asked = {"parent_flow_run_id": {"any_": [id]}}
    children = play.factory.ask("/flow_runs/filter", "POST", {"flow_runs": asked})
    assert {(c["work_pool_name"], c["state_type"]) for c in children} == {(GPU_POOL, "COMPLETED")}
    assert len(children) == 2  # scores, features
    return play.newest()


def _day(play: _Play) -> None:
    """In the UI: b is added, one schedule is paused, and one made. Clips arrive in a."""
    play.copy("a", 3)
    open_form(play.page, play.factory, "scan")
    field(play.page, "Folder", "path").fill(str(play.copy("b", 4, 5, 6)))
    play.factory.reaches(submit(play.page, play.factory, "scan"), "COMPLETED")
    page, curate = play.page, play.factory.deployment("curate")
    page.goto(f"{play.factory.address}/v2/deployments/deployment/{curate['id']}")
    switch = page.get_by_role("switch", name=re.compile("^toggle "))
    switch.click()
    expect(switch).not_to_be_checked()
    page.get_by_role("button", name="Schedule", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("tab", name="Cron").click()
    dialog.get_by_label("Value").fill("0 0 1 1 *")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("schedule created")).to_be_visible()  # not till then is it asked for
    assert _schedules(play.factory) == [("nightly", False), (None, True)]


def _second(play: _Play, before: Dataset) -> Generator[Figure, None, Dataset]:
    """The run and its worker are killed while the other pool works for it."""
    id = play.scheduled()
    asked = {"parent_flow_run_id": {"any_": [id]}, "state": {"type": {"any_": ["RUNNING"]}}}
    until(lambda: play.factory.ask("/flow_runs/filter", "POST", {"flow_runs": asked}), 300, "it")
    worker = play.factory.worker("foley")
    assert worker
    for pid in (worker, *play.factory.processes(of_run=id)):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: play.factory.run(id)["run_count"] == 2, 600, "it is started again")
    yield figure("second night: from the kill to the next start", time.monotonic() - began, "s")
    yield _ended(play, "second", id)
    dataset = play.newest()
    assert dataset.version.startswith("main-0002-")
    assert (dataset.policy["name"], dataset.diff["added"]) == ("wide", 4)
    assert _splits(before).items() <= _splits(dataset).items()
    published = play.processed()
    assert set(published.values()) == {4 + 4}, (published, play.committed())  # the kill included
    assert play.told.messages == [], play.told.messages
    return dataset


def _third(play: _Play, before: Dataset) -> Iterator[Figure]:
    """The policy was changed, and a source's folder is gone: the night does the rest, and tells."""
    chosen = play.factory.start("reselect", policy=play.policy("narrow", 1.5))
    play.factory.reaches(chosen, "COMPLETED")
    play.copy("a", 7)
    shutil.rmtree(play.folder / "b")
    id = play.scheduled()
    yield _ended(play, "third", id, "FAILED")
    dataset = play.newest()
    assert dataset.version.startswith("main-0004-")
    assert (dataset.policy["name"], dataset.diff["added"]) == ("narrow", 1)
    assert not any(clip.endswith("9") for clip in dataset.clip_ids()), "two seconds long"
    assert all(
        split == _splits(before).get(clip, split) for clip, split in _splits(dataset).items()
    )
    text = until(lambda: [m["text"] for m in play.told.messages], 300, "the webhook is told")[0]
    assert re.search(r"not scanned, all else is done: source b: .*foley source remove b", text)
    assert page_of(play.home, dataset.version).is_file()
    play.page.goto(f"{play.factory.address}/catalog")
    for version in Warehouse(play.home).datasets():
        expect(play.page.get_by_text(version.version).first).to_be_visible()
    picture(play.page, "nights")


def _splits(dataset: Dataset) -> dict[str, str]:
    members = dataset.members()
    return dict(zip(*(members[name].to_pylist() for name in ("clip_id", "split")), strict=True))
