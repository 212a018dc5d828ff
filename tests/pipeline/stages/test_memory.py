"""How much memory a process may use, by files as the kernel lays them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pipeline.stages.memory import memory_here

GB = 10**9
MACHINE = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/\n", {"memory.max": f"{GB}"}, GB),  # a container, with a namespace of its own
        (  # a Slurm job, whose steps have no limit of their own
            "0::/slurm/job_7/step_0\n",
            {"slurm/job_7/memory.max": f"{GB}", "slurm/job_7/step_0/memory.max": "max"},
            GB,
        ),
        (  # the first version: a folder for memory, one for each other controller
            "4:memory:/job\n3:cpuset:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": f"{GB}", "cpuset/job/memory.max": "1"},
            GB,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, MACHINE),
        ("0::/gone\n", {}, MACHINE),
    ],
)
def test_it_is_the_least_that_any_group_above_the_process_allows(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    tree = tmp_path / "cgroup"
    for name, value in limits.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(value + "\n")
    (tmp_path / "groups").write_text(groups)
    assert memory_here(tmp_path / "groups", tree) == expected


def test_where_there_are_no_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_here(tmp_path / "groups", tmp_path) == MACHINE
    assert 0 < memory_here() <= MACHINE
