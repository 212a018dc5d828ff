"""Reading media in processes of their own, which the kernel holds to limits of time and memory.

A file that hangs, eats memory or crashes its decoder costs that one process, which is replaced, and
becomes a MediaError like any other bad file. Workers are light: they load no torch.
"""

import mmap
import os
import pickle
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipeline.media.errors import MediaError
from warehouse.errors import FoleyError

T = TypeVar("T")

_LARGE = 1 << 18  # bytes from which arrays go through shared memory and not through the pipe
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # glibc is to keep what a file needed for the next one: new pages from the kernel are half of
    # what a sound costs
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
_LOOKS = 8  # how often a worker is looked at while it may stand still


@dataclass(frozen=True)
class WorkerLimits:
    """What one file may cost, and after how many files a worker is replaced."""

    # of processor time: a busy machine or a slow disk costs no file its reading
    seconds: float = 60.0
    # in which a reader that neither computed nor read a byte waits for what will not come
    stalled_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    files: int = 1000  # no leak can grow


class MediaWorkers:
    """`count` processes that read media, started when they are needed; safe in many threads."""

    def __init__(self, count: int, limits: WorkerLimits | None = None) -> None:
        self.count, self.limits = count, limits or WorkerLimits()
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="media")

    def submit(self, job: partial[T]) -> Future[T]:
        """Start `partial(read, path, ...)`: a module's function, its file and picklable arguments.

        The future raises what `read` raised, and MediaError if the file hung, needed too much
        memory or crashed.
        """
        return self._threads.submit(self._run, job)

    def map(
        self, jobs: Iterable[partial[T]], ahead: int, then: Callable[[T], object] | None = None
    ) -> Iterator[T | MediaError]:
        """Results in order, a MediaError in place of those that raised one.

        At most `ahead` wait to be taken. With `then` it is what that makes of them, in threads of
        this process.
        """

        def run(job: partial[T]) -> Any:
            result = self._run(job)
            return result if then is None else then(result)

        left = iter(jobs)
        running = deque(self._threads.submit(run, job) for job in islice(left, ahead))
        try:
            while running:
                try:
                    result: T | MediaError = running.popleft().result()
                except MediaError as error:
                    result = error
                running.extend(self._threads.submit(run, job) for job in islice(left, 1))
                yield result
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """Wait for what runs, then end the processes."""
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self.count):
            worker = self._idle.get()
            self._idle.put(None)
            if worker is not None:
                worker.end()

    def _run(self, job: partial[T]) -> T:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self.limits)
            return worker.run(job)
        finally:
            if worker is not None and (worker.lost or worker.done >= self.limits.files):
                worker.end()
                worker = None
            self._idle.put(worker)


def media_workers() -> MediaWorkers:
    """Workers of this process, one a core."""
    return _workers_of(os.getpid())


@cache
def _workers_of(pid: int) -> MediaWorkers:
    del pid  # a forked copy of this process cannot use its parent's
    return MediaWorkers(len(os.sched_getaffinity(0)))


class _Worker:
    """One process at the other end of a pipe."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits, self.done, self.lost = limits, 0, False
        self._pipe, theirs = Pipe()
        folders = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        command = [sys.executable, "-m", "pipeline.media.workers", str(theirs.fileno())]
        command += [str(limits.seconds), str(limits.memory_bytes)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": folders},
            )
        try:
            self._pipe.recv()
        except (EOFError, OSError):
            self.end()
            code = self._process.returncode
            raise FoleyError(f"a media worker could not start: it ended with {code}") from None

    def run(self, job: partial[T]) -> T:
        """The job's result; raises what it raised. A worker that was `lost` on the way is over."""
        path: Path = job.args[0]
        self.done += 1
        stalled = False
        try:
            self._pipe.send(job)
            if stalled := not self._answers():
                self._process.kill()
            worked, result = _receive(self._pipe)
        except (EOFError, OSError):
            self.lost = True
            self.end()
            raise MediaError(path, self._epitaph(stalled)) from None
        if worked:
            return result
        if isinstance(result, MemoryError):
            self.lost = True  # what it holds is not known
            most = self._limits.memory_bytes >> 20
            result = MediaError(path, f"needs more than {most} MB of memory")
        raise result

    def _answers(self) -> bool:
        """Wait for the worker's answer, or its end; False once it has stood still for too long."""
        looks, before = 0, None
        while not self._pipe.poll(self._limits.stalled_seconds / _LOOKS):
            now = _progress(self._process.pid)
            looks = 0 if now != before else looks + 1
            if looks >= _LOOKS:
                return False
            before = now
        return True

    def _epitaph(self, stalled: bool) -> str:
        code = self._process.returncode
        if stalled:
            return f"stood still for {self._limits.stalled_seconds:g} s: nothing more came from it"
        if code == -signal.SIGPROF:
            return f"took more than {self._limits.seconds:g} s of processor time"
        if code == -signal.SIGKILL:
            return "its reader was killed"
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"crashed its decoder ({cause})"

    def end(self) -> None:
        """End the process; there is nothing in it to lose."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def _progress(pid: int) -> tuple[float, int]:
    """Processor seconds that a process has used, and bytes that it has read."""
    try:
        process = psutil.Process(pid)
        times, io = process.cpu_times(), process.io_counters()
    except psutil.Error:
        return 0.0, 0  # it has just ended: the pipe says so
    return times.user + times.system, io.read_chars


def _send(pipe: Connection, message: object) -> None:
    """Send a message; its large arrays go as a file in memory, which cannot be left behind."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    total = sum(view.nbytes for view in views)
    if total < _LARGE:
        pipe.send((pickle.dumps(message), None))
        return
    with os.fdopen(os.memfd_create("media"), "wb", buffering=0) as file:
        for view in views:
            done = 0
            while done < view.nbytes:  # writing costs half of what filling a new mapping does
                done += file.write(view[done:])
        pipe.send((body, [view.nbytes for view in views]))
        send_handle(pipe, file.fileno(), os.getppid())


def _receive(pipe: Connection) -> Any:
    body, sizes = pipe.recv()
    if sizes is None:
        return pickle.loads(body)  # noqa: S301 (from our own worker)
    file = recv_handle(pipe)
    try:
        memory = memoryview(mmap.mmap(file, sum(sizes)))
    finally:
        os.close(file)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    buffers = [memory[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return pickle.loads(body, buffers=buffers)  # noqa: S301 (from our own worker)


def _work(pipe: Connection, seconds: float, memory_bytes: int) -> None:
    """What a worker does: a job after the other, until the pipe is closed."""
    # they are for the parent, whose end closes the pipe: no clip's fault
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whatever it is doing
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(pipe.fileno(),), daemon=True).start()
    pipe.send(None)
    while True:
        try:
            job: partial[object] = pipe.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        _send(pipe, _outcome(job))
        signal.setitimer(signal.ITIMER_PROF, 0)


def _end_with_parent(pipe: int) -> None:
    """End this process when the other end of its pipe is gone, even if a file hangs."""
    ended = select.poll()
    ended.register(pipe, 0)  # hang-ups are told of unasked
    ended.poll()
    os._exit(0)


def _outcome(job: Callable[[], object]) -> tuple[bool, object]:
    try:
        return True, job()
    except Exception as error:  # noqa: BLE001 (it is raised where the job came from)
        error.__traceback__ = error.__cause__ = error.__context__ = None
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (its own)
        except Exception:  # noqa: BLE001 (any error may fail to be pickled)
            return False, RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


if __name__ == "__main__":
    _work(Connection(int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3]))
