"""Whether folders and records are what was written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import FoleyError
from warehouse.files import file_sha256, read_json


@dataclass(frozen=True)
class Problem:
    """A file that is not as it was written."""

    path: Path
    what: str


def check_folder(path: Path, deep: bool) -> Iterator[Problem]:
    """Problems of the Parquet files that the note of a dataset or feature set lists."""
    try:
        note = read_json(path)
        shards = [
            (shard["file"], shard["rows"], shard["bytes"]) for shard in note.get("shards", ())
        ]
        files = shards or [("members.parquet", note["counts"]["clips"], None)]  # of older versions
    except (FoleyError, KeyError, TypeError) as exc:
        yield Problem(path, f"cannot be read: {exc}")
        return
    for name, rows, size in files:
        file = path.parent / name
        if not file.is_file():
            yield Problem(file, "is missing")
        elif size is not None and file.stat().st_size != size:
            yield Problem(file, f"is not of {size} bytes")
        elif deep:
            yield from _check(file, rows)


def _check(path: Path, rows: int) -> Iterator[Problem]:
    """Read all of a Parquet file with its page checksums."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            count = sum(batch.num_rows for batch in file.iter_batches(batch_size=256))
        if count != rows:
            yield Problem(path, f"holds {count} rows instead of {rows}")
    except FileNotFoundError:
        return
    except (OSError, pa.ArrowException) as exc:
        yield Problem(path, f"is damaged: {str(exc)[:200]}")


def check_records(paths: Iterable[Path], deep: bool) -> Iterator[Problem]:
    """Problems of JSON records, and of the bridge or the take whose hash one of them has."""
    for path in paths:
        try:
            record = read_json(path)
        except FoleyError as exc:
            yield Problem(path, str(exc))
            continue
        bridge = path.name == "checkpoint.json"
        file = path.with_name("bridge.safetensors") if bridge else path.with_suffix("")
        digest = record.get("sha256" if bridge else "sound")
        if deep and digest and file.is_file() and file_sha256(file) != digest:
            yield Problem(file, f"is not what {path.name} beside it tells of: make it again")
