"""Every kind of the zoo ends as the right row, within 10 s and 1 GB.

The kernel holds it to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.curation.sources import folder_source
from pipeline.media import (
    Framing,
    MediaError,
    MediaInfo,
    MediaWorkers,
    WorkerLimits,
    probe,
    read_frames,
)
from pipeline.scoring.loudness import Silence, SilenceSettings, measure_file
from pipeline.scoring.probe import Probe
from pipeline.stages.engine import Split, fingerprints, plan, run_batch
from pipeline.stages.stage import Failed, Outcome, Passed, Rejected
from tests.pipeline.media.samples import clicks, write_sample
from tests.pipeline.media.zoo import GOOD, ZOO, Kind
from warehouse import Warehouse


@pytest.fixture(scope="module")
def workers() -> Iterator[MediaWorkers]:
    found = MediaWorkers(1, WorkerLimits(seconds=10, memory_bytes=1 << 30))
    yield found
    found.close()


def said(outcome: Outcome) -> str | None:
    if isinstance(outcome, Passed):
        return None
    return outcome.reason if isinstance(outcome, Rejected) else outcome.message


def front_end(workers: MediaWorkers, path: Path) -> str:
    """What the first of probe, silence and frames that stops the clip says.

    "passed" if none does.
    """
    times = np.arange(32) / 16
    jobs: list[partial[Any]] = [
        partial(probe, path),
        partial(measure_file, path, SilenceSettings()),
    ]
    jobs.append(partial(read_frames, path, times, Framing(64, 64)))
    for job, found in zip(jobs, workers.map(jobs, ahead=1), strict=True):
        if isinstance(found, MediaError):
            assert len(str(found).splitlines()) == 1
            assert "took more than" not in str(found)
            assert "stood still" not in str(found)
            assert "needs more than" not in str(found)
            assert "crashed" not in str(found)
            return found.what
        if job.func is not read_frames:
            stage = Probe() if isinstance(found, MediaInfo) else Silence()
            (outcome,) = stage.process([{"clip_id": "it", "path": str(path)}])
            if stopped := said(outcome):
                return stopped
    return GOOD


def test_there_are_enough() -> None:
    assert len({kind.name for kind in ZOO}) == len(ZOO) >= 40


@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.name)
def test_each_ends_as_it_should(kind: Kind, tmp_path: Path, workers: MediaWorkers) -> None:
    path = kind.write(tmp_path)
    assert re.search(kind.said, front_end(workers, path))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_zoo_is_rows(tmp_path: Path) -> None:
    """Every animal in one corpus with good clips between them.

    A row each, and the good ones all the same.
    """
    folder = tmp_path / "zoo"
    folder.mkdir()
    write_sample(
        tmp_path / "good.mp4", [i / 30 for i in range(60)], clicks(2, [0.2, 0.5, 0.9, 1.3, 1.7])
    )
    files: dict[str, str] = {}
    for number, kind in enumerate(ZOO):
        place = folder / f"{number:02d}"
        place.mkdir()
        files[str(kind.write(place))] = kind.said
        (place / "neighbour.mp4").write_bytes((tmp_path / "good.mp4").read_bytes())
    listing = folder_source(folder).clips
    wh = Warehouse(tmp_path / "home")
    wh.ingest(listing)
    stages = [Probe(), Silence()]
    fps = fingerprints(stages)
    for stage in stages:
        work = plan(wh, stage, fps, split=Split(batch_size=50))
        for batch in work.batches:
            run_batch(wh, stage, work.header(), batch)
    heard = {
        row["clip_id"]: row for row in wh.rows("silence", fps["silence"], status=None).to_pylist()
    }
    probed = {
        row["clip_id"]: row for row in wh.rows("probe", fps["probe"], status=None).to_pylist()
    }
    facts: set[tuple[object, ...]] = set()
    for clip in listing.to_pylist():
        row = heard.get(clip["clip_id"]) or probed.get(clip["clip_id"])
        if Path(clip["path"]).name == "neighbour.mp4":
            assert row is not None
            facts.add((row["status"], row.get("rms_dbfs"), row.get("silent_share")))
            continue
        expected = files.pop(clip["path"])
        if row is None:  # the file could not even be hashed
            assert re.search(
                expected,
                "a folder, not a regular file, Permission denied, No such file, symbolic links",
            )
        elif expected == GOOD:
            assert row["status"] == "passed", clip["path"]
        elif (
            row["status"] != "passed"
        ):  # what passes here has bad frames, for a later stage to find
            assert re.search(expected, row["reason"] or row["message"])
    assert len(facts) == 1
    assert next(iter(facts))[0] == "passed"
    assert [Path(path).name for path in files] == [
        "folder.mp4"
    ]  # a folder is none of the files in a folder


def test_failed_is_what_the_stages_say_of_a_media_error(tmp_path: Path) -> None:
    (outcome,) = Probe().process([{"path": str(tmp_path / "gone.mp4")}])
    assert isinstance(outcome, Failed)
    assert outcome.error == "MediaError"
