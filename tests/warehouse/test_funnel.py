"""The funnel and `foley status`: steps in the order of the work, and who waits for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.curation.registry import register, remove
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.warehouse.toys import Facts, Text, Tokens, make_files, run_all
from warehouse import Warehouse, query, status

POLICY = Policy("toys", 1, (Gate("level", (Condition("level", below=20),)),), val=0.0, test=0.0)
# Of ten clips one is rejected (its last byte ends in 9) and two fail (7 and 8).
PASSED = [i for i in range(40) if i % 10 < 7]


class Features(Tokens):
    scope = "kept"


class Asked(Text):
    name, scope = "asked", "asked"
    schema = Text.schema.set(0, Text.schema.field(0).with_name("n_asked"))

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [Passed({"n_asked": 1}) for _ in clips]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """Every step by name, as the catalog's funnel and as status have it."""
    folder = tmp_path_factory.mktemp("funnel")
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 40))
    scores: list[Stage] = [Text(), Facts()]
    run_all(wh, scores)
    every = [*scores, Features(), Asked()]
    prints = fingerprints(every)
    dataset = select(wh, {name: prints[name] for name in ("text", "facts")}, POLICY)
    wh.ingest(make_files(folder / "media", 3, first=50))  # scored, and not judged
    run_all(wh, scores)
    gone = add_gone(wh, folder, scores)
    work = plan(wh, every[2], prints, dataset.clip_ids())
    run_batch(wh, every[2], work, work.batches[0])
    work = plan(wh, every[3], prints, [*dataset.clip_ids()[:5], gone])
    run_batch(wh, every[3], work, work.batches[0])
    wh.publish()
    before = query(wh.home, "from funnel").to_pylist()
    remove(wh, "gone")
    wh.publish()
    assert query(wh.home, "from funnel").to_pylist() != before
    assert (status(wh).clips, status(wh).unreadable) == (43, 0)
    return {
        "funnel": {
            r["stage"]: r for r in query(wh.home, "from funnel order by position").to_pylist()
        },
        "status": {step.stage: vars(step) for step in status(wh).stages},
    }


def add_gone(wh: Warehouse, folder: Path, scores: Sequence[Stage]) -> str:
    """A clip of a source that is to be removed, of which some are scored, and one is unreadable."""
    (folder / "gone").mkdir()
    register(wh, folder / "gone")
    rows = [row | {"source": "gone"} for row in make_files(folder / "gone", 14, 60).to_pylist()]
    wh.ingest(pa.Table.from_pylist(rows[:10]))
    run_all(wh, scores)
    Path(rows[13]["path"]).unlink()
    wh.ingest(pa.Table.from_pylist(rows[10:]))
    return rows[0]["clip_id"]


@pytest.mark.parametrize("shown", ["funnel", "status"])
def test_steps_are_in_the_order_of_the_work(
    steps: dict[str, dict[str, dict[str, Any]]], shown: str
) -> None:
    assert list(steps[shown]) == ["text", "facts", "select", "tokens", "asked"]


@pytest.mark.parametrize("shown", ["funnel", "status"])
def test_only_kept_clips_wait_for_features(
    steps: dict[str, dict[str, dict[str, Any]]], shown: str
) -> None:
    kept = [i for i in PASSED if i < 20]
    names = ("reached", "passed", "rejected", "failed", "waiting")
    found = {step: tuple(row[n] for n in names) for step, row in steps[shown].items()}
    assert found["facts"] == (43, len(PASSED) + 3, 4, 8, 0)
    assert found["select"] == (len(PASSED) + 3, len(kept), len(PASSED) - len(kept), 0, 3)
    assert found["tokens"] == (len(kept), 4, 0, 0, len(kept) - 4)
    assert found["asked"] == (5, 5, 0, 0, 0)


def test_speed_is_told_from_three_batches_on(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 15))
    stage = Text()
    prints = fingerprints([stage])
    stage.batch_size = 5
    work = plan(wh, stage, prints)
    speeds: list[float | None] = []
    for batch in work.batches:
        run_batch(wh, stage, work, batch)
        speeds.append(status(wh).stages[0].clips_per_second)
    assert speeds[:2] == [None, None]
    busy = wh.rows("text", prints["text"], columns=["seconds"])["seconds"].to_pylist()
    assert speeds[2] == pytest.approx(15 / sum(busy), rel=0.5)  # batches here follow one another
