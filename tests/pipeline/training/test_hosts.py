"""Training on several machines, as two launchers that meet at one address of this one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest
import torch

from model.presets.preset import Preset
from model.training.trainer import Progress
from pipeline.training.batches import DatasetFeatures
from pipeline.training.launch import Layout, train_in_processes
from pipeline.training.train import train
from tests.operations.factory import until
from tests.pipeline.small import Curated, with_training
from warehouse import FoleyError

LONG = 300  # seconds that nothing here takes


@pytest.fixture
def data(curated: Curated, preset: Preset) -> DatasetFeatures:
    """A training of 60 steps, of which each takes two micro-batches."""
    usual = {"batch_size": 3, "validate_every": 1000, "checkpoint_every": 2}
    return curated.data(with_training(preset, **usual, steps=60, micro_batches=2))


class Hosts:
    """Two hosts with one process each, of which the first step 3 is waited for."""

    def __init__(self, data: DatasetFeatures) -> None:
        layout = two_hosts()
        self.steps: list[int] = []
        before = set(launchers())
        self.pool = ThreadPoolExecutor(2)
        self.ends: list[Future[object]] = [
            self.pool.submit(train_in_processes, layout, data, self._note) for _ in range(2)
        ]
        until(lambda: len(self.steps) > 2 or self.ended(), LONG, "three steps were taken")
        self.launchers = sorted(set(launchers()) - before, key=lambda launcher: launcher.pid)

    def _note(self, progress: Progress) -> None:
        self.steps.append(progress.step)

    def ended(self) -> bool:
        return any(end.done() for end in self.ends)

    def reasons(self) -> list[str]:
        """Why each of them ended."""
        self.pool.shutdown()
        return [str(end.exception(LONG)) for end in self.ends]


def launchers() -> list[psutil.Process]:
    """The launchers that this process started."""
    children = psutil.Process().children()
    return [child for child in children if "torch.distributed.run" in child.cmdline()]


def lose(launcher: psutil.Process) -> None:
    """End a host as a power cut does."""
    for process in [launcher, *launcher.children(recursive=True)]:
        process.kill()


HARM: list[tuple[Callable[[psutil.Process], None], str]] = [
    (lose, "ended because one of them was lost: start it again on every host"),
    (psutil.Process.terminate, "was told to stop after step {}: start it again on every host"),
]


@pytest.mark.slow
def test_a_training_on_two_hosts_outlives_the_loss_and_the_end_of_one(
    data: DatasetFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First one of them is lost, then one is told to end, then a single process goes on."""
    monkeypatch.setenv("PET_LOCAL_ADDR", "127.0.0.1")  # this machine's name may not be known
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # libraries have threads of their own
    done = 0
    for harm, reason in HARM:
        hosts = Hosts(data)
        harm(hosts.launchers[1])
        reasons = hosts.reasons()
        [state] = data.wh.home.glob("checkpoints/*/state.pt")
        kept = torch.load(state, weights_only=True)["trainer"]["step"]
        assert any(reason.format(kept) in found for found in reasons), reasons
        assert hosts.steps[0] == done + 1
        assert max(hosts.steps) - 2 <= kept <= max(hosts.steps) + 1
        done = kept
    steps: list[int] = []
    train(data, lambda progress: steps.append(progress.step))
    assert steps == list(range(done + 1, 61))


def test_what_cannot_be_is_refused_before_anything_starts(data: DatasetFeatures) -> None:
    for layout, why in (
        (Layout(1, 3, "head:1"), "2 micro-batches a step cannot be shared by 3 processes"),
        (Layout(2, 2, "head:1"), "2 micro-batches a step cannot be shared by 4 processes"),
        (Layout(1, 2), "2 hosts need a rendezvous"),
    ):
        with pytest.raises(FoleyError, match=why):
            train_in_processes(layout, data, print)
    assert not launchers()


@pytest.mark.slow
def test_hosts_that_do_not_meet_say_where(
    data: DatasetFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_RDZV_CONF", "join_timeout=1")  # seconds, not minutes
    with pytest.raises(FoleyError, match="2 hosts did not meet at 127"):
        train_in_processes(two_hosts(), data, print)


def two_hosts() -> Layout:
    """A process on each, which meet at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Layout(1, 2, f"127.0.0.1:{free.getsockname()[1]}")
