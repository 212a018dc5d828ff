"""Crash test: SIGKILL a run at random moments, then compare with an undisturbed run.

    python -m tests.warehouse.crash --kills 200 --seed 1

A run ingests, runs all stages, selects, builds features, writes a record and publishes, while a
second process of its group compacts and publishes all the time. Every round begins with an empty
home and restarts the run after each kill until it ends by itself; then rows, dataset and feature
bytes and the catalog must be those of the undisturbed run, and after a sweep no file may be left
that nothing knows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints, plan, run_batch
from tests.warehouse.toys import POLICY, facts_of, make_files, stages
from warehouse import Warehouse, compact, gc, query, verify
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.files import use_file

CLIPS = 60
PHASES = (
    "start",
    "ingest",
    "facts",
    "tokens",
    "text",
    "select",
    "features",
    "record",
    "publish",
    "end",
)
BESIDE = ("nothing", "compaction", "publication")


def run(home: Path, media: Path, phase: Callable[[str], None]) -> None:
    """The whole way of the clips, whatever is there already."""
    wh = Warehouse(home)
    phase("ingest")
    wh.ingest(make_table(media))
    pipeline = stages()
    stage_hashes = fingerprints(pipeline)
    for stage in pipeline:
        phase(stage.name)
        while (work := plan(wh, stage, stage_hashes)).batches:
            for batch in work.batches:
                run_batch(wh, stage, work, batch)
    phase("select")
    dataset = select(wh, {name: stage_hashes[name] for name in ("facts", "text")}, POLICY)
    phase("features")
    features = build(
        wh, FeatureRequest(dataset, stage_hashes, ["tokens", "n_tokens", "prompt"], split=None)
    )
    phase("record")
    wh.write_record(
        "checkpoints", "bridge", {"dataset": dataset.version, "features": features.id, "steps": 1}
    )
    phase("publish")
    wh.publish()
    phase("end")


def make_table(media: Path) -> Any:
    """The clips, whose files are written once."""
    if not media.exists():
        aside = Path(f"{media}.part")
        make_files(aside, CLIPS)
        aside.rename(media)
    table = make_files(Path(f"{media}.copy"), CLIPS)
    paths = [path.replace(".copy/", "/") for path in table["path"].to_pylist()]
    import pyarrow as pa

    return table.set_column(table.column_names.index("path"), "path", pa.array(paths))


def disturb(home: Path, phase: Callable[[str], None]) -> None:
    """Compact and publish for ever."""
    wh = Warehouse(home)
    while True:
        phase("compaction")
        compact(wh, at_least=2)
        phase("publication")
        wh.publish()


def start(home: Path, media: Path, progress: mmap.mmap, log: Path) -> int:
    """Fork a run as the leader of a process group of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 2)
    status = 1
    try:
        helper = os.fork()
        if not helper:
            disturb(home, lambda name: progress.__setitem__(1, BESIDE.index(name)))
        run(home, media, lambda name: progress.__setitem__(0, PHASES.index(name)))
        os.kill(helper, signal.SIGKILL)
        os.waitpid(helper, 0)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(pid: int, seconds: float | None) -> int | None:
    """Wait for a run; past `seconds` its group is killed.

    Returns its exit status, None when it was killed.
    """
    deadline = time.monotonic() + seconds if seconds is not None else None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG if deadline else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline and time.monotonic() >= deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.0005)  # the moment of the kill, not a synchronisation


def outcome(home: Path) -> dict[str, Any]:
    """Everything that must be the same however often the run was killed."""
    wh = Warehouse(home)
    stage_hashes = fingerprints(stages())
    assert [plan(wh, stage, stage_hashes).todo for stage in stages()] == [0, 0, 0], (
        "there is work left"
    )
    assert verify(wh) == [], "verify found damage"
    compact(wh, at_least=10**9)
    gc(wh, dry_run=False)
    assert list(wh.tmp.iterdir()) == [], "a temporary file is left that gc does not find"
    unknown = [str(p) for f in (wh.home / "commits").glob("*/*/*") for p in [f] if not known(wh, p)]
    assert unknown == [], f"files that nothing knows: {unknown}"
    dataset = wh.dataset("toys")
    features = [wh.features(path.name) for path in sorted((home / "features").iterdir())]
    return {
        "rows": facts_of(wh),
        "clips": wh.clips(["sha256", "prompt"], status=None).to_pylist(),
        "dataset": [dataset.version, dataset.members(kept=None).to_pylist(), len(wh.datasets())],
        "features": [
            [f.id, *(digest(path) for path in sorted(f.path.glob("*.parquet")))] for f in features
        ],
        "record": wh.record("checkpoints", "bridge"),
        "funnel": query(home, "select * exclude (fingerprint) from funnel").to_pylist(),
        "members": query(
            home,
            "select kept, reason, split, count(*) from dataset_members group by all order by all",
        ).to_pylist(),
    }


def known(wh: Warehouse, path: Path) -> bool:
    """Whether a file in a commit folder is a good commit or a descriptor."""
    good = {commit.path for commit in wh.listing(path.parent.parent.name, path.parent.name).good}
    return path in good or path.name == "stage.json" or path == use_file(path.parent)


def digest(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def crash_test(
    folder: Path, kills: int, seed: int, say: Callable[[str], None] = print
) -> Counter[str]:
    """Kill `kills` times and compare after every round; returns the kills by what was going on.

    Raises AssertionError on a difference.
    """
    draw = random.Random(seed)
    progress, media, log = mmap.mmap(-1, 2), folder / "media", folder / "log"
    make_table(media)
    begun = time.monotonic()
    assert finish(start(folder / "calm", media, progress, log), None) == 0, log.read_text()[-4000:]
    usual = time.monotonic() - begun
    found: Counter[str] = Counter()
    homes = 0
    while found.total() < kills:
        home = folder / f"round{homes}"
        homes += 1
        while True:
            progress[:2] = bytes(2)
            left = kills - found.total()
            status = finish(
                start(home, media, progress, log), draw.uniform(0, usual) if left else None
            )
            if status is not None:
                assert status == 0, f"a restarted run failed:\n{log.read_text()[-4000:]}"
                break
            found[f"{PHASES[progress[0]]} beside {BESIDE[progress[1]]}"] += 1
        compare(folder / "calm", home, log)
        shutil.rmtree(home)
        say(json.dumps({"round": homes, "kills": found.total(), "by phase": dict(found)}))
    return found


def difference(want: Any, got: Any) -> str:
    """The first difference, in short."""
    if isinstance(want, dict) and isinstance(got, dict):
        key = next(k for k in [*want, *got] if want.get(k) != got.get(k))
        return f"{key}: {difference(want.get(key), got.get(key))}"
    if isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        at = next(i for i, (a, b) in enumerate(zip(want, got, strict=True)) if a != b)
        return f"[{at}] {difference(want[at], got[at])}"
    return f"{want!r:.500} became {got!r:.500}"


def compare(calm: Path, home: Path, log: Path) -> None:
    """Compare two homes in a process of its own, so that this one stays fit for forking."""
    pid = os.fork()
    if not pid:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        try:
            want, got = outcome(calm), outcome(home)
            for name in want:
                assert want[name] == got[name], (
                    f"{name} differs: {difference(want[name], got[name])}"
                )
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status == 0, log.read_text()[-4000:]


def main() -> None:
    """Run the long version from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(json.dumps({"seed": options.seed, "kills": options.kills}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = crash_test(
            Path(folder), options.kills, options.seed, lambda line: print(line, flush=True)
        )
    print(json.dumps({"kills": found.total(), "by phase": dict(found), "lost or different": 0}))


if __name__ == "__main__":
    sys.exit(main())
