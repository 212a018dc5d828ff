"""A Slurm cluster of two nodes on this machine, in a folder of its own: Debian's slurm-wlm, munge.

Both nodes say that they have more cores, memory and GPUs than there are; Slurm hands these out and
nobody computes on them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.foley.commands import ROOT
from tests.operations.factory import free_port, until

#: Names that are addresses, so that processes of one node find the other.
NODES = ("127.0.0.1", "127.0.0.2")
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
MISSING = [name for name in COMMANDS if shutil.which(name) is None]
GPUS = 4
_CONFIGURATION = """
ClusterName=scratch
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""
_NODE = (
    "NodeName={name} NodeHostname=localhost NodeAddr={name} Port={port} CPUs=128 "
    "RealMemory=1000000 Gres=gpu:{gpus}\n"
)


@dataclass(frozen=True)
class Slurm:
    """The cluster, and what its commands need."""

    folder: Path
    environment: dict[str, str]

    def submit(self, *arguments: str | Path, **variables: str) -> str:
        """Id of a job of one of our scripts, whose output lies in the folder under that id."""
        output = f"--output={self.folder}/%j.out"
        command = ["sbatch", "--parsable", output, *map(str, arguments)]
        return self._said(command, variables).strip()

    def reaches(self, job: str, *states: str, seconds: float = 300) -> None:
        """Wait until the job is in one of the states."""

        def there() -> bool:
            return any(f"JobState={state} " in self.told(job) for state in states)

        why = f"{job} {states}"
        try:
            until(there, seconds, why)
        except AssertionError:
            raise AssertionError(f"{self.told(job)}\n{self.output(job)}") from None

    def told(self, job: str) -> str:
        """What Slurm knows of a job."""
        return self._said(["scontrol", "show", "job", job])

    def output(self, job: str) -> str:
        return (self.folder / f"{job}.out").read_text()

    def cancel(self, job: str) -> None:
        self._said(["scancel", job])

    def _said(self, command: list[str], variables: dict[str, str] | None = None) -> str:
        environment = self.environment | (variables or {})
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def cluster(folder: Path) -> Generator[Slurm]:
    """Both nodes, up; they end with their jobs."""
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    nodes = "".join(_NODE.format(name=name, port=free_port(), gpus=GPUS) for name in NODES)
    configuration = _CONFIGURATION.format(folder=folder, port=free_port()) + nodes
    (folder / "slurm.conf").write_text(configuration)
    for number in range(GPUS):
        (folder / f"gpu{number}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    for node in NODES:  # each has locks of its own, as a machine has
        (folder / f"tmp-{node}").mkdir()
    prolog = f'#!/bin/sh\necho "export TMPDIR={folder}/tmp-$SLURMD_NODENAME"\n'
    (folder / "prolog").write_text(prolog)
    (folder / "prolog").chmod(0o755)
    environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf"}
    slurm = Slurm(folder, environment)
    with ExitStack() as stack:
        munge = ["socket=munge.socket", "key-file=munge.key", "log-file=munged.log"]
        munge += ["pid-file=munged.pid", "seed-file=munge.seed"]
        options = [f"--{option.replace('=', f'={folder}/')}" for option in munge]
        stack.enter_context(_running(["munged", "--foreground", "--force", *options], slurm))
        until((folder / "munge.socket").exists, 60, "munge")
        for node in NODES:
            stack.enter_context(_running(["slurmd", "-D", "-N", node], slurm))
        stack.enter_context(_running(["slurmctld", "-D", "-c"], slurm))
        until(lambda: _idle(slurm) == len(NODES), 60, "both nodes are idle")
        try:
            yield slurm
        finally:  # a node ends when its jobs have
            slurm._said(["scancel", "--user=root"])
            until(lambda: _idle(slurm) == len(NODES), 120, "all jobs have ended")


def _idle(slurm: Slurm) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states=idle"]
    done = subprocess.run(
        command, env=slurm.environment, capture_output=True, text=True, check=False
    )
    return len(done.stdout.split("\n")) - 1


@contextmanager
def _running(command: list[str], slurm: Slurm) -> Generator[None]:
    with (slurm.folder / "daemons.log").open("ab") as log:
        process = subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)
