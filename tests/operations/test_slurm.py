"""Our Slurm scripts on a Slurm that runs: two nodes on this machine, with the toy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server.server import Serving
from tests.foley.commands import ROOT
from tests.operations.factory import foley, free_port, until
from tests.operations.slurm import MISSING, NODES, Slurm, cluster
from warehouse import Warehouse
from warehouse.datasets.digest import digests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or os.getuid() != 0,
        reason="no Slurm to run as root: apt-get install slurm-wlm munge",
    ),
]
SCRIPTS = ROOT / "deployments" / "slurm"
#: In place of what the scripts ask for, which is for models of full size.
SMALL = ("--cpus-per-task=1", "--time=10")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def curated(slurm: Slurm, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home curated from a head node without GPUs, whose stages with a model ran in a job."""
    home = tmp_path_factory.mktemp("head") / "home"
    up = foley("up", "--gpus", "0", "--home", home, "--port", str(port := free_port()))
    assert up.returncode == 0, up.stderr
    try:
        serving = Serving(home, port=port)
        server = {"PREFECT_API_URL": f"{serving.address}/api", "FOLEY_HOME": str(home)}
        worker = slurm.submit("--gpus=1", *SMALL, SCRIPTS / "worker.sbatch", **server)
        done = foley("curate", clips, "--home", home, "--gpu-stages", "pool")
        assert done.returncode == 0, done.stderr
        assert "TresPerJob=gres:gpu:1" in slurm.told(worker).replace("gres/gpu", "gres:gpu")
        ran = {record["flow"] for record in Warehouse(home).records("runs")}
        assert ran == {"curate", "stages"}
        slurm.cancel(worker)
        slurm.reaches(worker, "CANCELLED")
    finally:
        foley("down", "--home", home)
    return home


def test_a_training_on_two_nodes(slurm: Slurm, curated: Path) -> None:
    layout = ("--nodes=2", "--gpus-per-node=1", "--mem=2G", *SMALL)
    options = ("--preset", "toy", "--steps", "4", "--set", "train.micro_batches=2")
    job = slurm.submit(*layout, SCRIPTS / "train.sbatch", *options, FOLEY_HOME=str(curated))
    slurm.reaches(job, "COMPLETED", "FAILED", "CANCELLED")
    assert "JobState=COMPLETED" in slurm.told(job), slurm.output(job)
    [checkpoint] = Warehouse(curated).records("checkpoints")
    assert checkpoint["steps"] == 4
    runs = [run for run in Warehouse(curated).records("runs") if run["flow"] == "train"]
    assert len(runs) == len(NODES), "each node has a record"
    for said in (run["parameters"] for run in runs):
        assert (said["processes"], said["hosts"]) == (1, len(NODES))
        assert re.fullmatch(rf"{NODES[0]}:\d+", said["rendezvous"])


def test_a_dask_cluster(slurm: Slurm, curated: Path, clips: Path, tmp_path: Path) -> None:
    """The same catalog comes of its workers, one node without a GPU and one with."""
    home = tmp_path / "home"
    home.mkdir()
    script, given = SCRIPTS / "dask.sbatch", {"FOLEY_HOME": str(home)}
    small = ("--mem-per-cpu=2G", *SMALL)
    head = slurm.submit("--ntasks=1", *small, script, **given)
    address = until(lambda: _read(home / "dask.address"), 60, "the address")
    gpu = slurm.submit("--ntasks=1", "--gpus-per-task=1", *small, script, address, **given)
    options = ("--runner", "dask", "--cluster", address, "--workers", "3", "--batch-size", "3")
    until(lambda: "Registered to" in slurm.output(gpu), 120, "its worker")
    done = foley("curate", clips, "--home", home, *options)
    assert done.returncode == 0, done.stderr
    assert "says that it has a GPU" not in done.stderr
    assert digests(Warehouse(home)) == digests(Warehouse(curated))
    for job in (gpu, head):
        slurm.cancel(job)
        slurm.reaches(job, "CANCELLED")


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
