"""What others run us with.

Kubernetes manifests by schema, shell scripts by the shell, the image by what it copies.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import kubernetes_validate
import pytest
import yaml

from flows.parameters import GPU_STAGES, SharedOutParameters, TrainParameters
from flows.running.runners import BATCHES_A_DEVICE, GPU
from model.presets.preset import load_preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.generation.provenance import code_revision
from tests.foley.commands import ROOT

FOLDER = ROOT / "deployments"
MANIFESTS = sorted((FOLDER / "kubernetes").rglob("*.yaml"))
KUBERNETES = "1.30"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    found = documents(path)
    assert found
    for document in found:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_wrong_manifest_is_found() -> None:
    wrong = documents(FOLDER / "kubernetes" / "server.yaml")[0]
    wrong["spec"]["replicsa"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "slurm").glob("*.sbatch")), ids=lambda path: path.name
)
def test_shell_scripts_parse(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "#SBATCH --time=" in path.read_text()


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_training_on_several_nodes_is_started_as_the_command_takes_it(
    tmp_path: Path, nodes: int
) -> None:
    """By Slurm, whose two commands say here what they are given; and by Kubernetes."""
    variables = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_GPUS_ON_NODE": "8"}
    variables |= {"SLURM_NNODES": str(nodes)}
    told = told_by_slurm(tmp_path, ["train.sbatch", "--preset", "paper"], variables)
    slurm = trained_by(told[told.index("foley") :])
    assert (slurm.preset, slurm.processes, slurm.hosts) == ("paper", 8, nodes)
    assert slurm.rendezvous == ("node7:29400" if nodes > 1 else None)
    _, job = documents(FOLDER / "kubernetes" / "train" / "train.yaml")
    [container] = job["spec"]["template"]["spec"]["containers"]
    kubernetes = trained_by(container["command"] + container["args"])
    assert kubernetes.hosts == job["spec"]["completions"] == job["spec"]["parallelism"]
    devices = container["resources"]["limits"]["nvidia.com/gpu"]
    assert str(kubernetes.processes) == devices


def told_by_slurm(folder: Path, command: list[str], variables: dict[str, str]) -> list[str]:
    """What a script of ours has srun start, where Slurm's commands and uv only print."""
    for name, says in (
        ("scontrol", "printf 'node7\\nnode8\\n'"),
        ("srun", 'printf "%s\\n" "$@"'),
        ("uv", 'echo "$@" >&2'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{says}\n")
        (folder / name).chmod(0o755)
    variables |= {"FOLEY_HOME": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}
    script, *arguments = command
    return subprocess.run(
        ["bash", str(FOLDER / "slurm" / script), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def test_dask_workers_with_a_device_say_what_the_code_asks_for(tmp_path: Path) -> None:
    told = told_by_slurm(tmp_path, ["dask.sbatch", "tcp://head:8786"], {"SLURM_GPUS_PER_TASK": "1"})
    worker = told.index("tcp://head:8786")
    assert told[worker - 2 : worker] == ["dask", "worker"]
    assert told[told.index("--resources") + 1] == f"{GPU}=1"
    assert told[told.index("--nworkers") + 1] == str(BATCHES_A_DEVICE)
    assert not (tmp_path / "dask.address").exists()
    plain = told_by_slurm(tmp_path, ["dask.sbatch"], {"SLURM_CPUS_PER_TASK": "6"})
    assert "--resources" not in plain
    assert plain[plain.index("worker") + 1] == (tmp_path / "dask.address").read_text().strip()


def trained_by(command: list[str]) -> TrainParameters:
    """Parameters of a `foley train` with such options."""
    assert command[:2] == ["foley", "train"]
    names = [option.removeprefix("--") for option in command[2::2]]
    return TrainParameters.model_validate(dict(zip(names, command[3::2], strict=True)))


def test_the_image_copies_what_there_is_and_installs_with_options_that_uv_has() -> None:
    text = (FOLDER / "Containerfile").read_text()
    sources = [
        word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*rooms, *project["project"]["license-files"], "deployments"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    sync = re.search(r"uv (sync [^&]*)", text)
    assert sync
    done = subprocess.run(
        ["uv", *shlex.split(sync[1]), "--dry-run"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_image_that_is_pushed_is_the_one_that_every_pod_runs(tmp_path: Path) -> None:
    """The commands of the README, of which those that need a registry are left out."""
    shutil.copytree(FOLDER / "kubernetes", tmp_path / "deployments" / "kubernetes")
    text = (FOLDER / "README.md").read_text()
    lines = re.findall(r"^(?:image=|sed ).*$", text, re.MULTILINE)
    assert len(lines) == 2
    git = {"GIT_DIR": str(ROOT / ".git"), "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, env=git, check=True)
    images = set[str]()
    for path in (tmp_path / "deployments").rglob("*.yaml"):
        images |= set(re.findall(r"image: (.*)", path.read_text()))
        for document in documents(path):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    [image] = images
    assert re.fullmatch(r"registry.example/foley:[0-9a-f]{12}", image)
    assert "--build-arg COMMIT=$(git rev-parse HEAD) -t $image" in text
    assert "\nARG COMMIT\n" in (container := (FOLDER / "Containerfile").read_text())
    assert "\nENV FOLEY_COMMIT=$COMMIT\n" in container


def test_records_name_the_commit_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_revision(tmp_path) is None
    monkeypatch.setenv("FOLEY_COMMIT", "0123abcd")
    assert code_revision(tmp_path) == "0123abcd"
    assert code_revision() != "0123abcd", "a tree knows better"


def test_each_pool_has_what_its_stages_need() -> None:
    """A worker without a device sends stages that need one to the pool of those that have one."""
    from flows.running.parts import DEPLOYMENT
    from flows.server.server import CPU_POOL, GPU_POOL

    deployments = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
    pools = {deployment["name"]: deployment["work_pool"]["name"] for deployment in deployments}
    assert pools[DEPLOYMENT.rpartition("/")[2]] == GPU_POOL
    for deployment in deployments:
        module, _, flow = deployment["entrypoint"].rpartition(".")
        kind = get_type_hints(getattr(import_module(module), flow).fn)["parameters"]
        wants = kind.on_device and not issubclass(kind, SharedOutParameters)
        assert pools[deployment["name"]] == (GPU_POOL if wants else CPU_POOL), deployment["name"]
        assert ("gpu" in deployment["tags"]) == wants
    for document in documents(FOLDER / "kubernetes" / "workers.yaml"):
        [worker] = document["spec"]["template"]["spec"]["containers"]
        pool = worker["command"][worker["command"].index("--pool") + 1]
        variables = {variable["name"]: variable.get("value") for variable in worker["env"]}
        has_device = "nvidia.com/gpu" in worker["resources"]["limits"]
        assert pool == (GPU_POOL if has_device else CPU_POOL)
        assert variables.get(GPU_STAGES) == (None if has_device else "pool")
    assert f"--pool {GPU_POOL}" in (FOLDER / "slurm" / "worker.sbatch").read_text()


#: Parameters of the published files (tests/model/test_full_size.py), in millions, by model; of the
#: backbone by what its keys begin with.
PUBLISHED: dict[str, dict[str, float]] = {
    "backbone": {"model": 1056.8, "pretransform": 156.1},
    "text": {"all": 223.0},
    "video": {"all": 326.0},
    "imagebind": {"all": 1200.8},
    "audiobox": {"all": 94.4},
}


def test_each_worker_has_the_memory_that_the_papers_stages_need(tmp_path: Path) -> None:
    """By files of the published size that hold nothing. Two processes share a device."""
    preset = load_preset("paper", tmp_path)
    for model, parts in PUBLISHED.items():
        path = preset.model(model)
        path = path if path.suffix else path / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes = {f"{part}.x": {"shape": [round(n * 1e6)]} for part, n in parts.items()}
        header = json.dumps(shapes).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        if path.suffix == ".pth":
            os.truncate(path, round(4 * sum(parts.values()) * 1e6))
    graph = StageGraph(preset)
    needs = {
        kind: max(s.memory for s in graph.stages if s.needs == kind) for kind in ("cpu", "gpu")
    }
    assert {stage.name for stage in graph.stages if stage.memory > needs["cpu"]} == {
        *("imagebind", "audiobox", "video_tokens", "audio_latents", "text_embeddings")
    }
    for document in documents(FOLDER / "kubernetes" / "workers.yaml"):
        [worker] = document["spec"]["template"]["spec"]["containers"]
        asked = worker["resources"]["requests"]
        memory, kind = int(asked["memory"].removesuffix("Gi")) * 2**30, "cpu"
        together = int(asked["cpu"])
        if "nvidia.com/gpu" in worker["resources"]["limits"]:
            kind, together = "gpu", BATCHES_A_DEVICE
        assert together * needs[kind] <= memory, document["metadata"]["name"]
    assert BATCHES_A_DEVICE * needs["gpu"] <= asked_of_slurm("worker.sbatch", "mem")
    a_task = asked_of_slurm("dask.sbatch", "mem-per-cpu") * 4
    assert "#SBATCH --cpus-per-task=4\n" in (FOLDER / "slurm" / "dask.sbatch").read_text()
    assert 4 * needs["cpu"] <= a_task
    assert BATCHES_A_DEVICE * needs["gpu"] <= a_task


def asked_of_slurm(script: str, option: str) -> int:
    """Bytes that a script asks for."""
    found = re.search(
        rf"^#SBATCH --{option}=(\d+)G$", (FOLDER / "slurm" / script).read_text(), re.MULTILINE
    )
    assert found
    return int(found[1]) * 2**30


def test_pools_and_heartbeats_are_the_same_everywhere() -> None:
    from flows.server.automations import FILE
    from flows.server.server import POOLS, SETTINGS

    deployments = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
    assert {deployment["work_pool"]["name"] for deployment in deployments} == set(POOLS)
    heartbeat = SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    automations = yaml.safe_load(FILE.read_text())
    assert automations[0]["trigger"]["within"] >= 3 * int(heartbeat)
    for deployment in deployments:
        variables = deployment["work_pool"]["job_variables"]["env"]
        assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == heartbeat
        assert all(schedule.get("slug") for schedule in deployment.get("schedules", ()))
    for path in (FOLDER / "Containerfile", FOLDER / "slurm" / "worker.sbatch"):
        assert f"PREFECT_FLOWS_HEARTBEAT_FREQUENCY={heartbeat}" in path.read_text()
