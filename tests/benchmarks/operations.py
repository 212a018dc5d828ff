"""What Prefect costs.

Thousands of batches of next to no work in one flow, against the same batches without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, figure

_ROOT = Path(__file__).parent.parent.parent


def batches() -> Iterator[Figure]:
    """Cost of a batch that does nothing, with Prefect and without; growth of Prefect's server.

    FOLEY_BATCHES (2000) batches; the share is that of a batch of one minute, the shortest that
    default sizes make.
    """
    count = int(os.environ.get("FOLEY_BATCHES", "2000"))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _MEASURE, folder, str(count)]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    of = f"{count} batches: "
    bare = "the same batch without Prefect"
    for what in ("wall", "CPU"):
        cost, plain = found[what], found[f"bare {what}"]
        yield figure(f"{of}a batch, {what}", cost * 1e3, "ms", bare, cost / plain)
        yield figure(f"{of}Prefect's share of a minute, {what}", (cost - plain) / 60 * 100, "%")
    early, late = found["early"], found["late"]
    yield figure(
        f"{of}a batch of the last tenth, CPU of both",
        late * 1e3,
        "ms",
        "of the first tenth",
        late / early,
    )
    yield figure(f"{of}the flow's process, peak memory on top", found["grown"] / 2**20, "MiB")
    yield figure(f"{of}server's CPU a batch", found["server CPU"] * 1e3, "ms")
    yield figure(f"{of}its share of a minute", found["server CPU"] / 60 * 100, "%")
    yield figure(f"{of}server's memory at the start", found["memory before"] / 2**20, "MiB")
    grown = found["memory peak"] - found["memory before"]
    yield figure(f"{of}server's peak memory on top", grown / 2**20, "MiB")
    yield figure(f"{of}its database, a batch", found["database"] / 1024, "KiB")
    yield figure(f"{of}task runs not taken in when the flow ends", found["behind"], "task runs")
    yield figure(f"{of}seconds until they are", found["catch up"], "s")


_MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
from flows.server.embedded import set_up_prefect

home, count = Path(sys.argv[1]), int(sys.argv[2])
server = set_up_prefect(home / "home")
server.wait()
pid = server._process.pid

def used(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

def memory(what):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024

def own_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def database():
    return sum(p.stat().st_size for p in (home / "home" / "prefect").glob("prefect.db*"))

import pyarrow as pa
from prefect import flow
from prefect.client.orchestration import get_client
from flows.parameters import BatchParameters
from flows.running.batches import run_stages
from pipeline.stages.engine import fingerprints, plan, run_batch
from pipeline.stages.stage import Passed, Stage
from warehouse import Warehouse, field

marks = []

class Nothing(Stage):
    batch_size = 1
    schema = pa.schema([field("letters", pa.int64(), "letters of the id")])

    def __init__(self, name):
        self.name = name
        self.schema = pa.schema([field(name + "_letters", pa.int64(), "letters of the id")])

    def process(self, clips):
        marks.append(time.process_time() + used(pid))
        return [Passed({self.name + "_letters": len(clip["clip_id"])}) for clip in clips]

wh = Warehouse(home / "home")
rows = []
for i in range(count):
    file = home / f"{i}.bin"
    file.write_text(str(i))
    rows.append({"clip_id": f"c{i:06}", "path": str(file), "source": "test"})
wh.ingest(pa.Table.from_pylist(rows))

def clocked(work):
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - started) / count, (time.process_time() - cpu) / count

bare = Nothing("bare")
fps = fingerprints([bare])
work = plan(wh, bare, fps)
found = {}
def alone():
    for batch in work.batches:
        run_batch(wh, bare, work.header(), batch)

found["bare wall"], found["bare CPU"] = clocked(alone)

@flow(name="nothing")
def nothing():
    stage = Nothing("tasks")
    return run_stages(wh, [stage], fingerprints([stage]), BatchParameters(home=wh.home, workers=1))

with get_client(sync_client=True) as client:
    def taken_in():
        return client._client.post("/task_runs/count", json={}).json()

    before, found["memory before"], size = used(pid), memory("VmRSS"), database()
    peak = own_peak()
    found["wall"], found["CPU"] = clocked(nothing)
    found["grown"] = own_peak() - peak
    found["behind"] = count - taken_in()
    started = time.perf_counter()
    while taken_in() < count and time.perf_counter() - started < 600:
        time.sleep(0.5)
    found["catch up"] = time.perf_counter() - started
    found["server CPU"] = (used(pid) - before) / count
    tenth, first = count // 10, -count
    found["early"] = (marks[first + tenth] - marks[first]) / tenth
    found["late"] = (marks[-1] - marks[-1 - tenth]) / tenth
    found["memory peak"], found["database"] = memory("VmHWM"), (database() - size) / count
print(json.dumps(found))
"""
