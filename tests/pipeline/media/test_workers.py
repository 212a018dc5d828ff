"""Workers.

Whatever a file does to the process that reads it costs that file an error, and its neighbours
nothing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest

from pipeline.media import MediaError, MediaWorkers, WorkerLimits, read_frames
from pipeline.media.picture import Framing
from pipeline.stages.reading import read_each
from pipeline.stages.stage import Clip, Failed, Outcome, Passed, Stage
from tests.pipeline.media.samples import write_sample
from warehouse import field


def size(path: Path) -> int:
    return path.stat().st_size


def open_and_wait(path: Path) -> bytes:
    return path.read_bytes()  # of a pipe into which nobody writes


def spin_in_c(path: Path) -> int:
    return sum(pow(3, 10**9, 10**4000 + n) for n in range(10**6))


def eat_memory(path: Path) -> int:
    held = [np.ones(1 << 24, np.uint8) for _ in range(1 << 10)]
    return len(held)


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(path: Path) -> None:
    os._exit(3)


def be_killed(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def told_to_end(path: Path) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    return path.stat().st_size


def raise_something(path: Path) -> None:
    raise ValueError(str(path))


def raise_what_does_not_travel(path: Path) -> None:
    class Local(Exception):  # noqa: N818
        pass

    raise Local("only here")


def pid(path: Path) -> int:
    return os.getpid()


def loaded(path: Path) -> set[str]:
    return {name.split(".")[0] for name in sys.modules}


def large(path: Path) -> tuple[np.ndarray, str, np.ndarray]:
    return np.arange(1 << 20, dtype=np.int64), "between", np.full((3, 1 << 18), 7, np.uint8)


@pytest.fixture
def workers() -> Iterator[MediaWorkers]:
    found = MediaWorkers(2, WorkerLimits(seconds=2.0, stalled_seconds=4.0, memory_bytes=300 << 20))
    yield found
    found.close()


def test_a_run_that_is_told_to_end_costs_no_clip_its_attempt(
    tmp_path: Path, workers: MediaWorkers
) -> None:
    """The signal may come to the whole group of processes: a file under way is read to its end."""
    (tmp_path / "good").write_bytes(b"1234")
    assert workers.submit(partial(told_to_end, tmp_path / "good")).result() == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "what"),
    [
        (open_and_wait, "stood still for 4 s"),
        (spin_in_c, "took more than 2 s of processor time"),
        (stop, "stood still for 4 s"),
        (be_killed, "its reader was killed"),
        (crash, "crashed its decoder .SIGSEGV"),
        (leave, "crashed its decoder .exit status 3"),
        (eat_memory, "needs more than 300 MB of memory"),
    ],
)
def test_a_bad_file_costs_itself(
    tmp_path: Path, workers: MediaWorkers, read: Callable[[Path], object], what: str
) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"1234")
    os.mkfifo(tmp_path / "bad")
    jobs: list[partial[object]] = [
        partial(size, good),
        partial(read, tmp_path / "bad"),
        *[partial[object](size, good)] * 20,
    ]
    first, bad, *rest = workers.map(jobs, ahead=4)
    assert isinstance(bad, MediaError)
    assert bad.path == tmp_path / "bad"
    with pytest.raises(MediaError, match=what):
        raise bad
    assert [first, *rest] == [4] * 21


def slower_than_its_limits(path: Path) -> int:
    for _ in range(10):
        time.sleep(0.5)  # on the wall more than both limits, in processor time next to nothing
        path.read_bytes()
    return path.stat().st_size


def test_a_slow_disk_or_a_busy_machine_costs_no_clip(tmp_path: Path) -> None:
    """5 s on the wall, with limits of 1 s of processor time and of 2 s without any sign of life."""
    (tmp_path / "good").write_bytes(b"1234")
    workers = MediaWorkers(1, WorkerLimits(seconds=1.0, stalled_seconds=2.0))
    try:
        assert workers.submit(partial(slower_than_its_limits, tmp_path / "good")).result() == 4
    finally:
        workers.close()


def test_faults_of_ours_are_not_blamed_on_the_file(tmp_path: Path, workers: MediaWorkers) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        workers.submit(partial(raise_something, tmp_path)).result()
    with pytest.raises(RuntimeError, match="Local: only here"):
        workers.submit(partial(raise_what_does_not_travel, tmp_path)).result()
    assert workers.submit(partial(size, Path(__file__))).result() == size(Path(__file__))


def test_arrays_come_back_whole_and_writable(tmp_path: Path, workers: MediaWorkers) -> None:
    for _ in range(3):
        first, word, second = workers.submit(partial(large, tmp_path)).result()
        assert word == "between"
        assert np.array_equal(first, np.arange(1 << 20))
        assert second.shape == (3, 1 << 18)
        second += 1
        assert set(second.ravel()) == {8}


def test_frames_are_those_read_here(tmp_path: Path, workers: MediaWorkers) -> None:
    write_sample(tmp_path / "a.mp4", [i / 25 for i in range(50)], None)
    job = partial(read_frames, tmp_path / "a.mp4", np.arange(60) / 30, Framing(64, 64))
    assert np.array_equal(workers.submit(job).result(), job())


def test_workers_are_replaced_in_time(tmp_path: Path) -> None:
    workers = MediaWorkers(1, WorkerLimits(files=3))
    pids = list(workers.map([partial(pid, tmp_path)] * 7, ahead=2))
    workers.close()
    assert [pids.count(p) for p in dict.fromkeys(pids)] == [3, 3, 1]
    assert os.getpid() not in pids


def test_workers_are_light(tmp_path: Path, workers: MediaWorkers) -> None:
    found = workers.submit(partial(loaded, tmp_path)).result()
    assert "av" in found
    assert not found & {"torch", "prefect", "transformers", "duckdb"}


def test_many_threads_share_them(tmp_path: Path, workers: MediaWorkers) -> None:
    sizes: dict[int, list[int | MediaError]] = {}

    def work(number: int) -> None:
        path = tmp_path / str(number)
        path.write_bytes(b"x" * number)
        sizes[number] = list(workers.map([partial(size, path)] * 50, ahead=4))

    threads = [Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == {number: [number] * 50 for number in range(6)}


@pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="waits on a process that is not a child, as Linux can"
)
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Even when the parent is killed, and even those that hang."""
    os.mkfifo(tmp_path / "pipe")
    code = f"""
import os, signal
from functools import partial
from pathlib import Path
from pipeline.media import MediaWorkers, WorkerLimits
from tests.pipeline.media.test_workers import open_and_wait, pid
workers = MediaWorkers(2, WorkerLimits())
hanging = workers.submit(partial(pid, Path("."))).result()
workers.submit(partial(open_and_wait, Path({str(tmp_path / "pipe")!r})))
print(hanging, workers.submit(partial(pid, Path("."))).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == -signal.SIGKILL
    for number in {int(word) for word in out.split()}:
        try:
            handle = os.pidfd_open(number)
        except ProcessLookupError:
            continue
        assert select.select([handle], [], [], 60)[0], "the worker lives on"
        os.close(handle)


class Sizes(Stage):
    """Size of every file, by a reader that some files break."""

    name = "sizes"
    schema = pa.schema([field("size", pa.int64(), "bytes")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        readers = {"crash": crash, "leave": leave}
        return read_each(
            clips,
            lambda clip: partial(readers.get(Path(clip["path"]).name, size), Path(clip["path"])),
            lambda found: Passed({"size": found}),
        )


def test_a_crash_in_a_stage_is_a_row(tmp_path: Path) -> None:
    for name in ("a", "crash", "b", "leave", "c"):
        (tmp_path / name).write_bytes(name.encode())
    outcomes = Sizes().process(
        [{"path": str(tmp_path / name)} for name in ("a", "crash", "b", "leave", "c")]
    )
    assert [type(outcome) for outcome in outcomes] == [Passed, Failed, Passed, Failed, Passed]
    assert isinstance(outcomes[1], Failed)
    assert outcomes[1].message == f"{tmp_path}/crash: crashed its decoder (SIGSEGV)"
