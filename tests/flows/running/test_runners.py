"""The same stage on threads, processes, Dask and Ray.

The same rows, also where a worker is killed in mid-run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from distributed import Scheduler, SpecCluster, Worker, get_worker
from prefect import flow, task

from flows.parameters import BatchParameters
from flows.running.batches import StageCounts, run_stages
from flows.running.runners import GPU, Runners
from pipeline.stages.engine import fingerprints
from tests.flows.running.mortal import Mortal
from warehouse import FoleyError, Warehouse
from warehouse.datasets.digest import digests

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


def run(wh: Warehouse, stage: Mortal, runner: str, workers: int = 2) -> StageCounts:
    @flow(name="runner-test")
    def once() -> StageCounts:
        parameters = BatchParameters(home=wh.home, runner=runner, workers=workers)  # type: ignore[arg-type]
        return run_stages(wh, [stage], fingerprints([stage]), parameters)[0]

    return once()


@pytest.fixture(scope="module")
def expected(api: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    wh = warehouse(tmp_path_factory.mktemp("threads"))
    run(wh, Mortal(), "thread")
    return digests(wh)


@pytest.mark.parametrize(("runner", "workers"), [("process", 2), ("dask", 3), ("ray", 3)])
def test_workers_one_of_them_killed_and_the_same_catalog(
    runner: str,
    workers: int,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7a")
    wh = warehouse(tmp_path)
    death = tmp_path / "death"
    counts = run(wh, Mortal(death), runner, workers)
    assert death.read_text() != str(os.getpid())
    assert (counts.lost, counts.passed, counts.rejected) == ((), 11, 1)
    found = digests(wh)
    for what, rows in (("threads", expected), (f"{runner}, {workers} workers", found)):
        print(f"{what}: {rows[-1]['md5']}")
    assert found == expected
    ran = {path.read_text() for path in tmp_path.glob("*.ran")}
    pids = {path.read_text().split()[0] for path in tmp_path.glob("*.ran")}
    assert str(os.getpid()) not in pids
    assert len(pids) < 12, "models stay in the processes that loaded them"
    if runner != "dask":  # each process has one GPU of the run's
        assert {text.split()[1] for text in ran} <= {"4", "GPU-7a"}
    if runner == "process":
        assert len(ran) == len(pids)


def test_a_worker_that_dies_every_time_is_said(tmp_path: Path) -> None:
    class Always(Mortal):
        def _one(self, clip_id: str) -> Any:
            if self.death:
                self.death.unlink(missing_ok=True)
            return super()._one(clip_id)

    wh = warehouse(tmp_path)
    with pytest.raises(FoleyError, match=r"stage mortal: \d+ of 12 batches were lost"):
        run(wh, Always(tmp_path / "death"), "process", workers=1)


class Plain(Mortal):
    needs = "cpu"  # type: ignore[assignment]


class Huge(Plain):
    """A stage that takes more memory than the small worker has."""

    memory = 3 * 2**30  # type: ignore[assignment]


class TooLarge(Plain):
    memory = 2**50  # type: ignore[assignment]


def test_dask_sends_a_stage_to_a_worker_with_a_gpu_and_the_memory_that_it_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    def where() -> str:
        return str(get_worker().name)

    @flow(name="place-test")
    def placed(cluster: str, *stages: Mortal) -> list[str]:
        parameters = BatchParameters(home=tmp_path, runner="dask", cluster=cluster, workers=2)
        with Runners(parameters) as runners:
            futures = [runners.submit(where, {}, stage) for stage in stages for _ in range(4)]
            return [future.result() for future in futures]

    def worker(**options: Any) -> dict[str, Any]:
        small = {"nthreads": 1, "memory_limit": 2 * 2**30}
        return {"cls": Worker, "options": small | options}

    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None, "host": "127.0.0.1"}}
    for having, expected in (({"resources": {GPU: 1}}, {"gpu"}), ({}, {"cpu", "gpu", "large"})):
        workers = {"cpu": worker(), "gpu": worker(**having), "large": worker(memory_limit=2**40)}
        with SpecCluster(workers, scheduler, silence_logs=False) as cluster:
            assert isinstance(cluster, SpecCluster)
            address: Any = cluster.scheduler_address
            assert {*placed(address, Mortal())} <= expected
            assert {*placed(address, Huge())} == {"large"}
            with pytest.raises(FoleyError, match=r"mortal needs about 1125899.9 GB .* has \d+"):
                placed(address, TooLarge())
            assert ("no worker of the cluster" in caplog.text) == (not having)
