"""Ingest: a row for what is new or changed and for nothing else, whatever a clip was before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.warehouse.toys import make_files
from warehouse import FoleyError, IngestResult, Warehouse


def test_only_what_differs_gets_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wh, media = Warehouse(tmp_path / "home"), tmp_path / "media"
    monkeypatch.chdir(tmp_path)
    clips = make_files(media, 10).to_pylist()
    clips[0]["path"] = "media/../media//0000.bin"  # the same, in other words
    assert wh.ingest(pa.Table.from_pylist(clips)) == IngestResult(new=10)
    told: list[tuple[int, int]] = []
    assert wh.ingest(pa.Table.from_pylist(clips), lambda *n: told.append(n)).unchanged == 10
    assert all(done <= total == 10 for done, total in told)
    clips[1]["prompt"] = "another"
    (media / "0002.bin").write_bytes(b"of another size")
    stat = (media / "0003.bin").stat()
    os.utime(media / "0003.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # another time
    (media / "0004.bin").unlink()
    clips[5]["url"] = None
    clips += make_files(media, 1, first=10).to_pylist()
    found = wh.ingest(pa.Table.from_pylist(clips))
    assert found == IngestResult(new=1, changed=5, unchanged=5, failed=1)
    assert wh.ingest(pa.Table.from_pylist(clips)) == IngestResult(unchanged=11, failed=1)

    rows: dict[str, dict[str, Any]] = {r["clip_id"]: r for r in wh.clips(status=None).to_pylist()}
    for number, clip in enumerate(clips):
        row = rows[clip["clip_id"]]
        path = media / f"{number:04d}.bin"
        assert (row["prompt"], row["url"]) == (clip["prompt"], clip["url"])
        if number == 4:
            assert (row["status"], row["error"]) == ("failed", "FileNotFoundError")
            continue
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row["bytes"], row["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)
    generations = wh.rows("clips", "source", None, ["generation"])["generation"].to_pylist()
    assert generations == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    make_files(media, 1, first=4)
    assert wh.ingest(pa.Table.from_pylist(clips)) == IngestResult(changed=1, unchanged=10)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"clip_id": "a"}, "a is empty or comes twice"),
        ({"clip_id": ""}, "empty"),
        ({"clip_id": None}, "empty"),
        ({"clip_id": "b", "split": "trian"}, "clip b has split 'trian'"),
    ],
)
def test_clips_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    clips = [{"clip_id": "a", "path": "a", "source": "s", "split": None}]
    table = pa.Table.from_pylist([*clips, {"path": "b", "source": "s", "split": None} | row])
    with pytest.raises(FoleyError, match=what):
        Warehouse(tmp_path).ingest(table)


def test_a_column_that_is_needed_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoleyError, match="source is missing"):
        Warehouse(tmp_path).ingest(pa.table({"clip_id": ["a"], "path": ["a"]}))
