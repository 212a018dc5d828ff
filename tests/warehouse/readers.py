"""Processes query the catalog in a loop while others commit, compact and publish.

    python -m tests.warehouse.readers --seconds 60 --readers 8

Every answer must be a state that the warehouse was in: whole commits only, no row whose upstream
row is missing, every clip once, and never less than the same reader saw before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.stages.engine import fingerprints, plan, run_batch
from tests.warehouse.toys import Facts, make_files, stages
from warehouse import Warehouse, compact, query

_SNAPSHOT = """
select (select count(*) from clips) as clips, (select count(*) from facts) as facts,
    (select count(*) from tokens) as tokens,
    (select count(*) from tokens anti join (from facts where status = 'passed') using (clip_id))
        as orphans,
    (select count(*) - count(distinct clip_id) from tokens) as twice,
    (select count(*) from (select "commit", count(*) as n, max(together) as whole from history.facts
        where status <> 'failed' and together > 1 group by all) where n <> whole) as torn
"""


def read(home: Path, until: float) -> int:
    """Query until the time is up; returns how often.

    Raises AssertionError for an impossible answer.
    """
    before, count = (0, 0, 0), 0
    while time.monotonic() < until:
        [found] = query(home, _SNAPSHOT).to_pylist()
        assert found["orphans"] == found["twice"] == found["torn"] == 0, found
        now = (found["clips"], found["facts"], found["tokens"])
        assert all(a <= b for a, b in zip(before, now, strict=True)), (before, now)
        before, count = now, count + 1
    return count


def write(home: Path, media: Path, worker: int, until: float) -> int:
    """Bring in clips and run the stages on them until the time is up."""
    wh, number = Warehouse(home), 0
    while time.monotonic() < until:
        rows = make_files(media / str(worker), 10, first=number * 10).to_pylist()
        rows = [
            {**row, "clip_id": f"{worker}-{row['clip_id']}"}
            for row in rows
            if int(row["clip_id"][4:]) % 10 < 5
        ]
        wh.ingest(pa.Table.from_pylist(rows))
        pipeline = stages()
        stage_hashes = fingerprints(pipeline)
        for stage in pipeline:
            work = plan(wh, stage, stage_hashes, clip_ids=[row["clip_id"] for row in rows])
            for batch in work.batches:
                run_batch(wh, stage, work, batch)
        number += 1
    return number


def publish(home: Path, until: float) -> int:
    """Publish until the time is up."""
    wh, count = Warehouse(home), 0
    while time.monotonic() < until:
        wh.publish()
        count += 1
    return count


def squeeze(home: Path, until: float) -> int:
    """Compact until the time is up; on a busy machine until there was something to compact."""
    wh, count = Warehouse(home), 0
    while time.monotonic() < until + (0 if count else 60):
        count += len(compact(wh, at_least=2))
    return count


def readers_test(folder: Path, seconds: float, readers: int) -> dict[str, int]:
    """Run everything at once; returns what was done by kind.

    Raises AssertionError when any process failed.
    """
    home, media = folder / "home", folder / "media"
    _in_child(lambda: _begin(home, media))()
    until = time.monotonic() + seconds
    jobs: list[tuple[str, Callable[[], int]]] = [
        ("reads", lambda: read(home, until)) for _ in range(readers)
    ]
    jobs += [("ingests", lambda w=w: write(home, media, w, until)) for w in range(2)]
    jobs += [
        ("publications", lambda: publish(home, until)),
        ("compactions", lambda: squeeze(home, until)),
    ]
    waiting = [(kind, _in_child(job)) for kind, job in jobs]
    done: dict[str, int] = {}
    for kind, wait in waiting:
        done[kind] = done.get(kind, 0) + wait()
    return done


def _begin(home: Path, media: Path) -> int:
    wh = Warehouse(home)
    write(home, media, 9, time.monotonic() + 0.01)
    assert plan(wh, Facts(), fingerprints([Facts()])).todo == 0
    wh.publish()
    return 0


def _in_child(job: Callable[[], int]) -> Callable[[], int]:
    """Start a job in a process of its own; the result waits for it and gives its count."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, json.dumps(job()).encode())
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
            os._exit(1)
    os.close(writer)

    def wait() -> int:
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0, said or f"killed by {signal.strsignal(status & 127)}"
        return int(said)

    return wait


def main() -> None:
    """Run the long version from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(
                {"errors": 0, **readers_test(Path(folder), options.seconds, options.readers)}
            )
        )


if __name__ == "__main__":
    main()
