"""What others run us with.

Kubernetes manifests by schema, shell scripts by the shell, the image by what it copies.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.foley.commands import ROOT

FOLDER = ROOT / "deployments"
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
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


def test_the_image_copies_what_there_is_and_installs_with_options_that_uv_has() -> None:
    text = (FOLDER / "Containerfile").read_text()
    sources = [
        word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()
    ]
    assert {"flows", "pipeline", "model", "warehouse", "deployments"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    sync = re.search(r"uv (sync [^&]*)", text)
    assert sync
    done = subprocess.run(
        ["uv", *shlex.split(sync[1]), "--dry-run"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pools_and_heartbeats_are_the_same_everywhere() -> None:
    from flows.server.automations import FILE
    from flows.server.server import SETTINGS
    from flows.server.supervisor import POOLS

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
