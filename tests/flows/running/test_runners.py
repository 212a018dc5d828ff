"""The same stage on threads, processes, Dask and Ray.

The same rows, also where a worker is killed in mid-run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect import flow

from flows.parameters import BatchParameters
from flows.running.batches import StageCounts, run_stages
from pipeline.stages.engine import fingerprints
from tests.flows.running.mortal import Mortal
from warehouse import FoleyError, Warehouse, query

pytestmark = [pytest.mark.usefixtures("api"), pytest.mark.slow]


def warehouse(folder: Path) -> Warehouse:
    """Eleven clips of two letters, one of one."""
    wh = Warehouse(folder / "home")
    rows: list[dict[str, Any]] = []
    for name in [*(f"c{i}" for i in range(10)), "ca", "a"]:
        file = folder / f"{name}.bin"
        file.write_text(name)
        rows.append({"clip_id": name, "path": str(file), "source": "test"})
    wh.ingest(pa.Table.from_pylist(rows))
    return wh


def run(wh: Warehouse, stage: Mortal, runner: str) -> StageCounts:
    @flow(name="runner-test")
    def once() -> StageCounts:
        parameters = BatchParameters(home=wh.home, runner=runner, workers=3)  # type: ignore[arg-type]
        return run_stages(wh, [stage], fingerprints([stage]), parameters)[0]

    return once()


def rows(wh: Warehouse) -> list[dict[str, Any]]:
    """What the catalog says of every clip."""
    wh.publish()
    sql = (
        "select clip_id, status, reason, id_length, attempt, fingerprint"
        " from history.mortal where live order by all"
    )
    return query(wh.home, sql).to_pylist()


@pytest.fixture(scope="module")
def expected(api: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    wh = warehouse(tmp_path_factory.mktemp("threads"))
    run(wh, Mortal(), "thread")
    return rows(wh)


@pytest.mark.parametrize("runner", ["process", "dask", "ray"])
def test_three_workers_one_of_them_killed_and_the_same_catalog(
    runner: str, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    wh = warehouse(tmp_path)
    death = tmp_path / "death"
    counts = run(wh, Mortal(death), runner)
    assert death.read_text() != str(os.getpid())
    assert (counts.lost, counts.passed, counts.rejected) == ((), 11, 1)
    assert rows(wh) == expected
    processes = {row["pid"] for row in wh.rows("mortal", counts.fingerprint).to_pylist()}
    assert os.getpid() not in processes


def test_a_worker_that_dies_every_time_is_said(tmp_path: Path) -> None:
    class Always(Mortal):
        def _one(self, clip_id: str) -> Any:
            if self.death:
                self.death.unlink(missing_ok=True)
            return super()._one(clip_id)

    wh = warehouse(tmp_path)
    with pytest.raises(FoleyError, match=r"stage mortal: \d+ of 12 batches were lost"):
        run(wh, Always(tmp_path / "death"), "process")
