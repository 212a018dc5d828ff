"""The demo as a person runs it, by step, and run again with nothing to do.

And what Prefect costs a task.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from tests.benchmarks.figures import Figure, figure

_ROOT = Path(__file__).parent.parent.parent


def demo() -> Iterator[Figure]:
    """Wall seconds of `foley demo` by step, its processor seconds, and the rerun beside it."""
    with tempfile.TemporaryDirectory() as folder:
        first, used = _foley_demo(Path(folder))
        results = json.loads((Path(folder) / "reports" / "results.json").read_text())
        for step, seconds in results["seconds"].items():
            yield figure(f"demo {step}", seconds, "s")
        yield figure("demo whole command", first, "s")
        yield figure("demo processor time", used, "CPU-s")
        again, used_again = _foley_demo(Path(folder))
        yield figure("demo rerun with nothing to do", again, "s", "the first run", again / first)
        yield figure(
            "demo rerun processor time", used_again, "CPU-s", "the first run", used_again / used
        )


def _foley_demo(home: Path) -> tuple[float, float]:
    """Wall and processor seconds of one run; those of its embedded server count too."""
    before, started = os.times(), perf_counter()
    command = [sys.executable, "-m", "foley.cli.main", "demo", "--home", str(home)]
    subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    used = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return perf_counter() - started, used


def orchestration() -> Iterator[Figure]:
    """Milliseconds that a flow and a task cost where nothing is done in them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _MEASURE, folder]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    yield figure("embedded server start, first", found["server"] * 1e3, "ms")
    yield figure("flow", found["flow"] * 1e3, "ms")
    yield figure("task", found["task"] * 1e3, "ms", "a batch of one minute", found["task"] / 60)


_MEASURE = """
import json, sys, time
from pathlib import Path
from flows.server.embedded import set_up_prefect
started = time.perf_counter()
server = set_up_prefect(Path(sys.argv[1]))
server.wait()
found = {"server": time.perf_counter() - started}
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

@task(cache_policy=NO_CACHE, persist_result=False)
def one(number):
    return number

@flow
def empty():
    pass

@flow
def many(count):
    started = time.perf_counter()
    for future in [one.submit(i) for i in range(count)]:
        future.wait()
    return (time.perf_counter() - started) / count

empty()
times = []
for _ in range(5):
    started = time.perf_counter()
    empty()
    times.append(time.perf_counter() - started)
found["flow"] = sorted(times)[2]
many(10)
found["task"] = many(100)
print(json.dumps(found))
"""
