"""Three nights of a factory that nobody tells what is new.

Clips arrive, a source is added, the policy changes: what each night did, and who is in which split.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.curate import Curated, curate, reselect, score
from flows.maintenance import health, release, retry
from flows.parameters import (
    CurateParameters,
    HealthParameters,
    ReleaseParameters,
    RetryParameters,
    ScoreParameters,
    SelectParameters,
)
from pipeline.curation.registry import register, remove
from pipeline.procedural import sample_clip, write_clip
from warehouse import Dataset, FoleyError, Warehouse, query
from warehouse.datasets.corpus import choose_dataset
from warehouse.datasets.versions import page_of

pytestmark = pytest.mark.usefixtures("api")
POLICY = """
name = "{name}"
version = 1
[[gate]]
name = "short"
keep = [{{ column = "duration", below = {below} }}]
[splits]
val = {share}
test = {share}
"""


#: Stages without a model are facts enough.
BRIEF: dict[str, Any] = {
    "settings": tuple(f"scores.{name}=false" for name in ("imagebind", "audiobox", "sync"))
}


@dataclass(frozen=True)
class Factory:
    """A home, and ten clips: eight of a second, two of two."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def copy(self, source: str, *numbers: int) -> Path:
        (self.folder / source).mkdir(exist_ok=True)
        for number in numbers:
            shutil.copy(self.folder / f"clip {number}.mp4", self.folder / source)
        return self.folder / source

    def policy(self, name: str, below: float, share: float) -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(POLICY.format(name=name, below=below, share=share))
        return str(path)

    def night(self, **parameters: Any) -> Curated:
        fields = {"home": self.home, "features": False, **parameters}
        return curate(CurateParameters.model_validate(fields))

    def newest(self) -> Dataset:
        return choose_dataset(Warehouse(self.home))


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    folder = tmp_path_factory.mktemp("nights")
    for number in range(10):
        write_clip(sample_clip(number, 1.0 if number < 8 else 2.0), folder / f"clip {number}.mp4")
    return Factory(folder)


def splits(dataset: Dataset) -> dict[str, str]:
    members = dataset.members()
    return dict(zip(*(members[name].to_pylist() for name in ("clip_id", "split")), strict=True))


def test_three_nights(factory: Factory) -> None:
    home, wide = factory.home, factory.policy("wide", 9.0, 0.3)
    alone = {"folder": factory.copy("a", 0, 1, 2, 3), "name": "a", "sources": ("a",)}
    first = factory.night(**alone, policy=wide, **BRIEF)
    assert first.dataset.version.startswith("main-0001-")
    assert (first.ingest.new, {count.processed for count in first.scoring}) == (4, {4})

    # on the second day clips arrive, a source is added, and the disk of another is lost
    factory.copy("a", 4, 9)
    lost = factory.copy("lost", 1)
    for folder in (factory.copy("b", 0, 5, 6, 7, 8), lost):
        register(Warehouse(home), folder)
    shutil.rmtree(lost)
    what = r"^not scanned, all else is done: source lost: .*: no such folder.* source remove lost$"
    with pytest.raises(FoleyError, match=what):
        factory.night()
    second = factory.newest()
    assert page_of(home, second.version).is_file()
    newest = max(Warehouse(home).records("runs"), key=lambda run: run["started_at"])
    assert (newest["state"], "source lost" in newest["error"]) == ("failed", True)
    assert second.version.startswith("main-0002-")
    assert second.diff == {"added": 7, "removed": 0, "moved": 0}
    assert second.policy["name"] == "wide"
    remove(Warehouse(home), "lost")
    done = query(home, "select stage, sum(clips) as clips from commits group by 1").to_pylist()
    assert {row["clips"] for row in done} == {4 + 7}, "each clip was done once"

    # on the third a person tries a policy, and then changes to it
    narrow: dict[str, Any] = {"home": home, "policy": factory.policy("narrow", 1.5, 0.05)}
    trial = reselect(SelectParameters(**narrow, dataset="trial", sources=("b",)))
    assert (trial.counts["clips"], factory.newest().version) == (5, second.version)
    third = reselect(SelectParameters(**narrow))
    assert third.version.startswith("main-0003-")
    assert third.diff == {"added": 0, "removed": 2, "moved": 0}
    night = factory.night()
    assert night.dataset.version == third.version, "the night goes on with that policy"
    assert (night.ingest.unchanged, {count.processed for count in night.scoring}) == (11, {0})

    reselect(SelectParameters(**narrow, dataset="trial", sources=("b",), make_default=True))
    assert factory.newest().version == trial.version

    assert {*splits(second).values()} == {"train", "val", "test"}
    for dataset in (first.dataset, third, trial):
        assert splits(dataset).items() <= splits(second).items()
    rows = query(home, "select name, clips, removed from sources order by name").to_pylist()
    assert [(*row.values(),) for row in rows] == [
        ("a", 6, False), ("b", 5, False), ("lost", 0, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sources": ("a",)}, "alone would take the clips of b out of dataset main"),
        ({"folder": "b", "sources": ("a",), "dataset": "x"}, "source b, which is not among"),
        ({"sources": ("nowhere",), "dataset": "x"}, "no source 'nowhere'"),
    ],
)
def test_sources_that_cannot_be_selected_from(
    factory: Factory, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    home = Warehouse(tmp_path / "home")
    for name in "ab":
        register(home, factory.copy(name, 0))
    if "folder" in parameters:
        parameters = parameters | {"folder": factory.folder / parameters["folder"]}
    with pytest.raises(FoleyError, match=message):
        factory.night(home=home.home, **parameters)
    assert home.datasets() == []


def test_failed_clips_are_told_of_and_tried_again(factory: Factory, tmp_path: Path) -> None:
    """Scored alone first, which selects nothing."""
    here, once = Factory(tmp_path), {"home": tmp_path / "home", "max_attempts": 1, **BRIEF}
    folder = here.copy("a")
    (folder / "bad.mp4").write_text("no video")
    probe, *_ = score(ScoreParameters.model_validate({**once, "folder": folder}))
    assert (probe.failed, Warehouse(here.home).datasets()) == (1, [])

    with pytest.raises(FoleyError, match=r"^1 of 1 clips failed probe$"):
        health(HealthParameters(home=here.home))
    rows = query(here.home, "select what, subject, value, ok from health order by ok, 1, 2")
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("failures", "probe", 1.0, False),
        ("failures", "clips", 0.0, True),
        ("freshness", "a", pytest.approx(0, abs=0.1), True),
    ]
    assert release(ReleaseParameters(home=here.home, reason="%no such error%")) == {}
    probe, *_ = retry(RetryParameters.model_validate(once)).scoring
    assert (probe.failed, probe.quarantined) == (1, 0)
